"""Rules that read a table of mounts that is handed in: what nobody can mount for a test."""

import struct
import sys

import pytest

from peakhold import diagnose
from peakhold.advice import Folder, RunSettings, on_folders
from peakhold.disk import volume as volumes
from peakhold.disk.mounts import Mount, MountTable
from peakhold.disk.volume import Volume, left_of_quota, look

ROOT = "1 0 8:1 / / rw,relatime - ext4 /dev/sda1 rw"


def table(*lines):
    return "\n".join([ROOT, *lines])


def on(kind, options="rw", source="server:/runs"):
    """A table in which this test's own folder is on such a mount."""
    return lambda folder: table(f"2 1 0:9 / {folder} rw shared:7 - {kind} {source} {options}")


NETWORK = {
    "nfs with nolock": (on("nfs", "rw,vers=3,nolock"), "notice", "nolock"),
    "nfs with local locks": (on("nfs4", "rw,local_lock=all"), "notice", "local_lock=all"),
    "nfs with local flock": (on("nfs", "rw,local_lock=flock"), "notice", "local_lock=flock"),
    "lustre": (on("lustre", "rw,localflock"), "notice", "localflock"),
    "cifs": (on("cifs", "rw,nobrl"), "notice", "nobrl"),
    "sshfs": (on("fuse.sshfs"), "notice", "as always"),
    "s3fs": (on("fuse.s3fs", source="s3fs"), "warning", "an object store"),
    "gcsfuse": (on("fuse.gcsfuse", source="bucket"), "warning", "an object store"),
    "mount-s3": (on("fuse", source="mountpoint-s3"), "warning", "an object store"),
}
USUAL = {
    "nfs": on("nfs4", "rw,vers=4.2,hard,local_lock=none"),
    "nfs 3": on("nfs", "rw,vers=3,local_lock=none"),
    "nfs 3 for /var": on("nfs", "rw,vers=3,nolock,local_lock=none"),
    "lustre": on("lustre", "rw,flock"),
    "cifs": on("cifs"),
    "fuse of somebody's": on("fuse", source="my-own"),
    "xfs": on("xfs", source="/dev/sdb1"),
    "overlay that is no root": on("overlay", "rw,upperdir=/nowhere", "overlay"),
    "nothing": lambda _: "",
    "garbage": lambda _: (
        "1 0\n\n- - - - - - -\nx y 8:1 / / rw - ext4 /dev/sda1 rw\n1 0 8:1 / / rw ext4"
    ),
}


@pytest.mark.parametrize("name", NETWORK)
def test_a_network_mount_that_a_run_cannot_trust(name, tmp_path):
    of, level, why = NETWORK[name]

    (found,) = diagnose(tmp_path, mount_table=of(tmp_path)).findings

    assert (found.code, found.level) == ("E10", level)
    assert why in found.text
    assert repr(str(tmp_path)) in found.text


@pytest.mark.parametrize("name", USUAL)
def test_a_mount_as_people_have_them_is_told_nothing(name, tmp_path):
    found = diagnose(tmp_path, mount_table=USUAL[name](tmp_path))

    assert found.findings == ()
    assert found.is_fine


ENGINES = {
    "docker": "lowerdir=/var/lib/docker/overlay2/l/A,upperdir=/var/lib/docker/overlay2/9f/diff",
    "containerd": "lowerdir=/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/1",
    "podman": "upperdir=/srv/u/.local/share/containers/storage/overlay/9f/diff",
}


@pytest.fixture
def outside(monkeypatch):
    """As on a machine that is no container, wherever the suite runs."""
    monkeypatch.setattr(volumes, "_MARKS", ())
    for name in volumes._VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ENGINES)
def test_a_containers_root_is_known_by_its_layers_alone(name, outside, monkeypatch, tmp_path):
    monkeypatch.setattr(volumes, "_TEMPORARY", ("/nowhere",))
    monkeypatch.setenv("TMPDIR", "/nowhere")
    text = f"1 0 0:9 / / rw - overlay overlay rw,{ENGINES[name]}"

    (found,) = diagnose(tmp_path, mount_table=text).findings

    assert (found.code, found.level) == ("E10", "warning")
    assert f"mountPath: {tmp_path} " in found.text


@pytest.mark.parametrize("variable", ["container", "KUBERNETES_SERVICE_HOST"])
def test_a_containers_root_is_known_by_its_environment(variable, outside, monkeypatch, tmp_path):
    text = "1 0 0:9 / / rw - overlay overlay rw,lowerdir=/a,upperdir=/b"

    assert diagnose(tmp_path, mount_table=text).findings == ()  # a live system's
    monkeypatch.setenv(variable, "yes")
    (found,) = diagnose(tmp_path, mount_table=text).findings

    assert found.code == "E10"


def test_a_path_is_on_the_mount_that_the_kernel_would_find():
    """Escapes, a mount that hides others, and one that was made over another."""
    lines = (
        r"2 1 0:2 / /mnt/my\040runs rw - nfs4 server:/a rw",
        "3 1 0:3 / /data rw - xfs /dev/sdb rw",
        "4 3 0:4 / /data/runs rw - ext4 /dev/sdc rw",
        "5 1 0:5 / /srv rw - ext4 /dev/sdd rw",
        "6 5 0:6 / /srv/u/runs rw - btrfs /dev/sde rw",
        "7 5 0:7 / /srv/u rw - tmpfs tmpfs rw",
        "8 3 0:8 / /data rw - tmpfs tmpfs rw",
        "9 1 0:9 / /dat rw - vfat /dev/sdf rw",
    )
    mounts = MountTable(table(*lines))

    kinds = {
        path: mounts.of(path).kind
        for path in (
            "/",
            "/mnt/my runs",
            "/mnt/my runs/a",
            "/data/runs/a",
            "/srv/u/runs/a",
            "/srv",
        )
    }
    assert kinds == {
        "/": "ext4",
        "/mnt/my runs": "nfs4",
        "/mnt/my runs/a": "nfs4",
        "/data/runs/a": "tmpfs",
        "/srv/u/runs/a": "tmpfs",
        "/srv": "ext4",
    }


def test_the_systems_own_table_is_read():
    found = MountTable.read().of("/proc")

    assert found is None if sys.platform != "linux" else found.kind == "proc"


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_the_rules_of_mounts_are_silent(platform, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)

    assert MountTable.read().of("/") is None


# Room: what a file system has that this machine has not


def told(volume, **arguments):
    folder = Folder("ModelCheckpoint", "/runs", "weights", **{"copies": 3, "files": 2, **arguments})
    facts = RunSettings(
        folders=(folder,), volumes={"/runs": volume}, sizes={"weights": 1_000_000_000}
    )
    return [one.text for one in on_folders(facts)]


DISK = Mount("/", "ext4", "/dev/sda1")
ROOM = 3_000_000_000 + (1 << 20)


def test_room_is_what_the_quota_leaves():
    roomy = Volume("/runs", 1, 10 * ROOM, None, None, DISK)
    (text,) = told(Volume("/runs", 1, 10 * ROOM, None, ROOM - 1, DISK))

    assert told(roomy) == told(Volume("/runs", 1, 10 * ROOM, None, ROOM, DISK)) == []
    assert "this run takes up to 3 GB at a time (ModelCheckpoint 3 x 1 GB in '/runs';" in text
    assert "and your quota leaves 3 GB on '/'; free some space" in text


def test_room_is_what_is_free():
    (text,) = told(Volume("/runs", 1, ROOM - 1, None, 10 * ROOM, DISK))

    assert "and 3 GB are free on '/'; free some space" in text
    assert told(Volume("/runs", 1, ROOM, None, None, DISK)) == []
    assert len(told(Volume("/runs", 1, ROOM, 5, None, DISK))) == 1  # of six files
    assert told(Volume("/runs", 1, ROOM, 6, None, DISK)) == []


def test_what_two_write_to_one_disk_is_added_up():
    folders = [Folder("a", "/a", "state", 2), Folder("b", "/b", "weights", 1), Folder("c", "/c")]
    volumes = {one.path: Volume(one.path, 1, 4 << 20) for one in folders}
    sizes = {"state": 1 << 20, "weights": 1 << 20}

    def n(**more):
        facts = {"folders": tuple(folders), "volumes": volumes, "sizes": sizes, **more}
        return len(list(on_folders(RunSettings(**facts))))

    assert n() == 0
    assert n(sizes={**sizes, "weights": (1 << 20) + 1}) == 1
    assert n(sizes={**sizes, "weights": (1 << 20) + 1}, resumes=True) == 0
    assert n(sizes={"state": None, "weights": 9 << 20}) == 1
    apart = {**volumes, "/b": Volume("/b", 2, 4 << 20)}
    assert n(sizes={**sizes, "weights": (1 << 20) + 1}, volumes=apart) == 0


def test_what_the_kernel_says_of_a_quota():
    """`struct if_dqblk`: limits in KiB, what is used in bytes, then inodes, times and flags."""

    def answer(hard, soft, used):
        return struct.pack("=8QI4x", hard, soft, used, 0, 0, 0, 0, 0, 63).ljust(128, b"\0")

    assert left_of_quota(answer(1000, 500, 24_000)) == 1_000_000
    assert left_of_quota(answer(0, 500, 12_000)) == 500_000
    assert left_of_quota(answer(1, 0, 4096)) == 0
    assert left_of_quota(answer(0, 0, 4096)) is None


def test_a_mount_with_quotas_that_sets_this_user_none(tmp_path):
    """The call is made, and what it answers is no limit: this machine's disk has no quotas."""
    found = look(str(tmp_path), MountTable(on("ext4", "rw,usrquota")(tmp_path)))

    assert found.quota_bytes is None
    assert found.room == found.free_bytes
