"""What can be known of the file system under a folder without writing to it.

Two calls to the system and a read of the table of mounts: all of it together takes a tenth of a
millisecond, so that it may be asked for at the start of every run.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from typing import Any, Final, final

from peakhold.disk.mounts import Mount, MountTable

__all__ = ["LAYERED", "Volume", "existing", "look"]

LAYERED: Final = frozenset(
    {"overlay", "overlayfs", "aufs", "fuse-overlayfs", "fuse.fuse-overlayfs"}
)
"""File systems of layers: what is written to them goes to the uppermost."""

_MARKS: Final = ("/.dockerenv", "/run/.containerenv")
_VARIABLES: Final = ("container", "KUBERNETES_SERVICE_HOST")
_ENGINES: Final = re.compile(r"/(docker|containerd|containers|io\.containerd[^/]*|crio|buildkit)/")
"""Folders in which container engines keep their layers; they stand in the mount's options."""
_TEMPORARY: Final = ("/tmp", "/var/tmp")  # noqa: S108 - to know them, not to use them

_QUOTACTL_FD: Final = 443  # the same number on all of Linux's architectures; since 5.14
_GET_USERS_QUOTA: Final = 0x800007 << 8
_QUOTA: Final = struct.Struct("=3Q")  # hard and soft limit in KiB, bytes in use
_QUOTA_BYTES: Final = 128


@final
@dataclass(frozen=True, slots=True)
class Volume:
    """The file system under one folder."""

    folder: str
    """Absolute, links followed; it need not be there yet."""
    device: int
    """The same for all folders on one file system."""
    free_bytes: int
    """What this user may still write, by the file system alone."""
    free_files: int | None = None
    """How many files may still be made; None where there is no such bound."""
    quota_bytes: int | None = None
    """What this user's quota leaves; None where none is seen."""
    mount: Mount | None = None
    """None where the system has no table of mounts."""
    upper: Mount | None = None
    """Where the uppermost layer of a layered file system is, if that can be seen."""
    in_container: bool = False
    """Whether its root is a container's own layer."""
    is_temporary: bool = False
    """Whether it is where temporary files belong; looked at where a layer is below it."""

    @property
    def room(self) -> int:
        """Bytes that may still be written."""
        return (
            self.free_bytes if self.quota_bytes is None else min(self.free_bytes, self.quota_bytes)
        )


def existing(folder: str) -> str:
    """The folder, or the nearest above it that is there; links followed.

    Args:
        folder: A path; nothing need be there.
    """
    path = os.path.realpath(folder)
    while not os.path.lexists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return path


def look(folder: str, table: MountTable) -> Volume | None:
    """What is known of the file system under a folder; None if nothing is.

    Args:
        folder: The folder; of one that is not there, where it would be made.
        table: The mounts.
    """
    there, path = existing(folder), os.path.realpath(folder)
    try:
        status, device = os.statvfs(there), os.stat(there).st_dev
    except (OSError, AttributeError):  # Windows has no `statvfs`
        return None
    mount = table.of(path)
    is_root = mount is not None and mount.path == "/"
    is_layered = mount is not None and mount.kind in LAYERED
    return Volume(
        folder=path,
        device=device,
        free_bytes=status.f_bavail * status.f_frsize,
        free_files=status.f_favail if status.f_files else None,
        quota_bytes=_quota(there, mount),
        mount=mount,
        upper=_upper(mount, table) if mount is not None and is_layered and not is_root else None,
        in_container=mount is not None and is_layered and is_root and _is_containers(mount),
        is_temporary=is_layered and _is_temporary(path),
    )


def _upper(mount: Mount, table: MountTable) -> Mount | None:
    upper = mount.options.get("upperdir", "")
    return table.of(os.path.realpath(upper)) if os.path.isdir(upper) else None


def _is_containers(root: Mount) -> bool:
    """Whether a layered root is a container's, and not a live system's or somebody's own."""
    layers = ":".join(root.options.get(name, "") for name in ("lowerdir", "upperdir"))
    return (
        any(map(os.path.exists, _MARKS))
        or any(os.environ.get(name) for name in _VARIABLES)
        or _ENGINES.search(layers) is not None
    )


def _is_temporary(path: str) -> bool:
    folders = (*_TEMPORARY, os.environ.get("TMPDIR") or _TEMPORARY[0])
    return any(f"{path}/".startswith(f"{os.path.realpath(one)}/") for one in folders)


def _quota(folder: str, mount: Mount | None) -> int | None:
    """What this user's quota leaves, where the mount has quotas; a project's are in `statvfs`."""
    if mount is None or not any("quota" in name and name != "noquota" for name in mount.options):
        return None
    import ctypes  # of quotas alone

    answer = ctypes.create_string_buffer(_QUOTA_BYTES)
    try:
        system: Any = ctypes.CDLL(None, use_errno=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        failed = system.syscall(_QUOTACTL_FD, descriptor, _GET_USERS_QUOTA, os.getuid(), answer)
    finally:
        os.close(descriptor)
    return None if failed else left_of_quota(answer.raw)


def left_of_quota(answer: bytes) -> int | None:
    """Bytes that a quota leaves, of the kernel's answer; None if it sets no limit.

    Args:
        answer: A `struct if_dqblk`.

    Example:
        >>> left_of_quota(struct.pack("=3Q", 1000, 0, 24_000))
        1000000
    """
    hard_kib, soft_kib, used = _QUOTA.unpack_from(answer)
    limit = (hard_kib or soft_kib) * 1024
    return max(0, limit - used) if limit else None
