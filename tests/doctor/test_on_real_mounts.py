"""Each rule of folders, with the mistake on a real file system, and without it.

One process in a mount namespace looks at all places (`tests/on_mounts.py`); where nobody may make
one, the tests are skipped and say why.
"""

import json
import pathlib
import subprocess
import sys

import pytest

CHILD = pathlib.Path(__file__).parents[1] / "on_mounts.py"
UNSHARE = (["unshare", "-m"], ["unshare", "-Urm"])


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    why = "this system has no mount namespaces"
    for unshare in UNSHARE if sys.platform == "linux" else ():
        try:
            may = subprocess.run([*unshare, "true"], capture_output=True, text=True)
        except FileNotFoundError:
            why = "there is no `unshare` here"
            break
        why = f"`{' '.join(unshare)}` says: {may.stderr.strip()}"
        if may.returncode == 0:
            folder = str(tmp_path_factory.mktemp("mounts"))
            command = [*unshare, sys.executable, str(CHILD), folder]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout.splitlines()[-1])
    pytest.skip(why)


@pytest.fixture
def place(places):
    def named(name):
        found = places.get(name) or places["container's layer"]
        if "cannot" in found:
            pytest.skip(f"{name}: {found['cannot']}")
        return found

    return named


def told(found, code):
    """What was said under a code: by the doctor, and by each run."""
    doctor = [(level, text) for one, level, text in found["doctor"] if one == code]
    runs = {
        way: [line for line in lines if f'silence("{code}")' in line]
        for way, lines in found["run"].items()
    }
    return doctor, runs


@pytest.mark.parametrize("name", ["disk", "root that is no container's", "volume in a container"])
def test_where_nothing_is_wrong_nothing_is_said(place, name):
    found = place(name)

    if name == "disk" and found["doctor"] and found["doctor"][0][0] == "E10":
        pytest.skip(f"the suite's own folder is no disk: {found['doctor']}")
    assert found["doctor"] == []
    assert not any(found["run"].values()), found["run"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tmpfs", "(a tmpfs, mounted at "),
        ("overlay on a tmpfs", "whose upper layer is on tmpfs"),
        ("container's /tmp", "on the container's own layer (overlay)"),
    ],
)
def test_what_is_gone_one_day_is_noticed(place, name, words):
    doctor, runs = told(place(name), "E10")

    ((level, text),) = doctor
    assert level == "notice"
    assert words in text
    for lines in runs.values():
        (line,) = lines
        assert line.startswith("Peakhold: ")
        assert words in line


def test_a_containers_own_layer_is_a_warning_with_what_to_mount(place):
    found = place("container's layer")

    doctor, runs = told(found, "E10")
    ((level, text),) = doctor
    assert level == "warning"
    assert "'/models': what is written there is on the container's own layer (overlay)" in text
    assert "docker run -v runs:/models, or a volume with mountPath: /models" in text
    assert set(runs) == {"in_a_list", "in_a_run"}
    assert all(len(lines) == 1 for lines in runs.values()), runs
    assert runs["in_a_list"][0].startswith("'/models': what is written there")
    assert runs["in_a_run"][0].startswith("'/models/run': what is written there")


def test_an_overlay_on_a_disk_is_somebodys_choice(place):
    found = place("overlay on a disk")

    assert found["doctor"] == []
    assert found["run"] == {"in_a_list": []}


def test_a_disk_of_one_megabyte_has_no_room_for_what_is_kept(place):
    doctor, runs = told(place("1 MB"), "E9")

    ((level, text),) = doctor
    assert level == "warning"
    assert "takes up to 2.25 MB at a time (a run 4 x 300 kB in " in text
    (line,) = runs["in_a_list"]
    assert "(ModelCheckpoint 2 x 300 kB in " in line
    assert "BackupAndRestore 3 x 300 kB in " in line
    assert "and 1.04 MB are free on " in line


def test_a_disk_without_inodes(place):
    doctor, runs = told(place("no inodes"), "E9")

    ((level, text),) = doctor
    assert level == "warning"
    assert " files at the same time in " in text
    assert "inodes left" in text
    assert len(runs["in_a_list"]) == 1


def test_what_cannot_be_written_is_an_error(place):
    """The doctor says it; a run raises before its first batch, in words of its own."""
    found = place("read-only")

    ((code, level, text), *more) = found["doctor"]
    assert (code, level) == ("E9", "error")
    assert "cannot be written: Read-only file system; mount it for writing" in text
    (*_, error) = found["run"]["in_a_list"]
    assert error.startswith("SaveError: ")
    assert "Read-only file system" in error
    assert all(code == "E10" for code, *_ in more)


def test_the_doctor_leaves_nothing(places):
    assert all(found["left"] == [] for found in places.values() if "left" in found)


def test_what_is_mounted_here_is_seen_by_nobody_else(places):
    with open("/proc/self/mountinfo") as table:
        assert "mounts0/tmpfs" not in table.read()
