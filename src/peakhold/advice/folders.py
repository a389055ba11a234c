"""The rules of folders: where files go, whether they have room there, and whether they stay.

What is found out by looking alone (`disk/volume.py`) is judged here, at the start of every run.
What only a write shows (`doctor/probing.py`) is the doctor's, and the error of who writes first.

Rules of this file, besides those of `rules.py`:

1. What people choose knowingly is not found fault with: a network mount is how clusters work, and
   what lies under `/tmp` is known to be gone one day.
2. Room is reckoned from what retention will keep at the same time, the file that is being written
   included, and never more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from peakhold.advice.said import Advice
from peakhold.advice.settings import Folder, RunSettings
from peakhold.disk.mounts import Mount, MountTable
from peakhold.disk.volume import Volume, look
from peakhold.speech import listed

__all__ = ["RULES", "located", "on_folders", "size_of"]

_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_BUCKETS: Final = frozenset(
    {"s3fs", "gcsfuse", "goofys", "rclone", "mountpoint-s3", "mount-s3", "blobfuse", "blobfuse2"}
)
"""Object stores that are mounted as if they were file systems; by the type or the source."""
_MARGIN_BYTES: Final = 1 << 20
"""What a store leaves free beside a checkpoint (`store/commit.py`)."""


def located(
    settings: RunSettings, sizes: Mapping[str, Callable[[], int | None]], table: MountTable
) -> RunSettings:
    """The settings, with what is known of the file systems under their folders.

    Args:
        settings: The run's.
        sizes: By what a folder holds, what asks for the bytes of one copy.
        table: The mounts.
    """
    folders = dict.fromkeys(folder.path for folder in settings.folders)
    found = {path: volume for path in folders if (volume := look(path, table)) is not None}
    held = {str(folder.holds) for folder in settings.folders if folder.holds is not None}
    nbytes = {name: sizes[name]() for name in held if name in sizes}
    return replace(settings, volumes=found, sizes=nbytes)


def no_room(facts: RunSettings) -> Iterator[Advice]:
    """E9: what will be kept at the same time does not fit."""
    if facts.resumes:  # what it will keep is partly there
        return
    for folders in _by(facts, lambda volume: volume.device):
        volume = facts.volumes[folders[0].path]
        sized = [(one, facts.sizes.get(one.holds or "")) for one in folders]
        keeping = [(one, one.copies * nbytes) for one, nbytes in sized if nbytes]
        needed = sum(nbytes for _, nbytes in keeping) + _MARGIN_BYTES
        if keeping and needed > volume.room:
            by = "; ".join(
                f"{one.who} {one.copies} x {size_of(nbytes // one.copies)} in {one.path!r}"
                for one, nbytes in keeping
            )
            yield Advice(
                "E9",
                "warning",
                f"this run takes up to {size_of(needed)} at a time ({by}; "
                f"{size_of(_MARGIN_BYTES)} beside), and {_free(volume)}; free some space, write "
                "elsewhere, or keep fewer (keep_last=2, save_best_only=True).",
            )
        n_files = sum(one.copies * one.files for one in folders if one.holds is not None)
        if volume.free_files is not None and volume.free_files < n_files:
            yield Advice(
                "E9",
                "warning",
                f"this run will have {n_files} files at the same time in "
                f"{_paths(folders)}, and the file system has {volume.free_files} inodes left; "
                "delete files there, or write elsewhere.",
            )


def not_kept(facts: RunSettings) -> Iterator[Advice]:
    """E10: what is written is gone with the container, or with the next start of the machine."""
    for folders in _by(facts, _where):
        volume = facts.volumes[folders[0].path]
        mount, upper, paths = volume.mount, volume.upper, _paths(folders)
        if mount is None:
            continue
        if mount.kind in _IN_MEMORY:
            yield _in_memory(paths, f"a {mount.kind}, mounted at {mount.path!r}")
        elif upper is not None and upper.kind in _IN_MEMORY:
            yield _in_memory(
                paths, f"an overlay at {mount.path!r}, whose upper layer is on {upper.kind}"
            )
        elif volume.in_container:
            yield Advice(
                "E10",
                "notice" if volume.is_temporary else "warning",
                f"{paths}: what is written there is on the container's own layer ({mount.kind}), "
                "and gone with the container; mount something that stays: "
                f"docker run -v runs:{volume.folder}, or a volume with mountPath: {volume.folder} "
                "in Kubernetes.",
                once=volume.is_temporary,
            )


def shared_without_locks(facts: RunSettings) -> Iterator[Advice]:
    """E10: a mount on which a rename is a copy, or a lock holds on one machine only."""
    for folders in _by(facts, _where):
        mount = facts.volumes[folders[0].path].mount
        if mount is None:
            continue
        paths, at = _paths(folders), f"{mount.kind}, mounted at {mount.path!r}"
        if _is_bucket(mount):
            yield Advice(
                "E10",
                "warning",
                f"{paths}: a file cannot take another's place at once there, nor be locked ({at}, "
                "is an object store); write to a disk, or to a file system such as NFS, and copy "
                "from there.",
            )
        elif (why := _local_locks(mount)) is not None:
            yield Advice(
                "E10",
                "notice",
                f"{paths}: locks hold on this machine only ({at}, {why}), so a run that is started "
                "on another one is not kept out; mount it with locks, or see to it that one "
                "machine writes there.",
                once=True,
            )


RULES: Final = (no_room, not_kept, shared_without_locks)


def on_folders(facts: RunSettings) -> Iterator[Advice]:
    """All that there is to say of the folders of a run."""
    for rule in RULES:
        yield from rule(facts)


def _in_memory(paths: str, what: str) -> Advice:
    return Advice(
        "E10",
        "notice",
        f"{paths}: what is written there is held in memory ({what}) and gone when the machine "
        "starts anew; write what is to stay to a disk, or mount one there.",
        once=True,
    )


def _is_bucket(mount: Mount) -> bool:
    names = {mount.kind.removeprefix("fuse."), mount.source.rpartition("/")[2]}
    return mount.kind.startswith(("fuse", "gcsfuse", "s3fs")) and not _BUCKETS.isdisjoint(names)


def _local_locks(mount: Mount) -> str | None:
    """Why locks of this mount are not seen by other machines; None if they are, or nobody knows."""
    options = mount.options
    if mount.kind in {"nfs", "nfs4"}:
        local = options.get("local_lock", "none")
        if local in {"all", "flock"}:
            return f"local_lock={local}"
        return "nolock" if "nolock" in options and "local_lock" not in options else None
    if mount.kind == "lustre" and "localflock" in options:
        return "localflock"
    if mount.kind in {"cifs", "smb3"} and "nobrl" in options:
        return "nobrl"
    return "as always" if mount.kind == "fuse.sshfs" else None


def _by(facts: RunSettings, key: Callable[[Volume], Hashable]) -> Iterable[list[Folder]]:
    """The folders whose file systems are known, in groups that have something in common."""
    groups: dict[Hashable, list[Folder]] = {}
    for folder in facts.folders:
        volume = facts.volumes.get(folder.path)
        if volume is not None:
            groups.setdefault(key(volume), []).append(folder)
    return groups.values()


def _where(volume: Volume) -> Hashable:
    return None if volume.mount is None else (volume.mount.path, volume.mount.kind)


def _paths(folders: Iterable[Folder]) -> str:
    """Their paths; of those that lie in another, that one says it."""
    paths = dict.fromkeys(folder.path for folder in folders)
    tops = [one for one in paths if not any(one.startswith(f"{other}/") for other in paths)]
    return listed([repr(path) for path in tops])


def _free(volume: Volume) -> str:
    where = volume.folder if volume.mount is None else volume.mount.path
    if volume.room < volume.free_bytes:
        return f"your quota leaves {size_of(volume.room)} on {where!r}"
    return f"{size_of(volume.room)} are free on {where!r}"


def size_of(nbytes: int) -> str:
    """A number of bytes for people.

    Example:
        >>> size_of(999), size_of(1_250_000), size_of(7_000_000_000)
        ('999 bytes', '1.25 MB', '7 GB')
    """
    size, unit = float(nbytes), "bytes"
    for name in ("kB", "MB", "GB", "TB", "PB"):
        if size < 999.5:  # which three digits would show as 1000
            break
        size, unit = size / 1000, name
    return f"{nbytes} bytes" if unit == "bytes" else f"{size:.3g} {unit}"
