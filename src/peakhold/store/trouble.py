"""Damage or trouble: what a call that failed says of the checkpoint, and what only of this moment.

Rules for this file:

1. Damage is what stays when we come again: the file is gone, is something else than a file, or the
   medium cannot give its bytes back. An older checkpoint may be served in its place.
2. Everything else is trouble: no descriptor or memory left, no permission, a server that has
   forgotten the file, a signal. It says nothing of the checkpoint, so nobody may conclude that it
   is damaged, or not there: it is raised as what it is, with the path that it happened at.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from peakhold.errors import PeakholdError

__all__ = ["as_it_is", "is_damage"]

_DAMAGE: Final = frozenset(
    getattr(errno, name)
    for name in (
        "ENOENT",
        "ENOTDIR",  # a file, or a link, where a folder belongs
        "EISDIR",
        "ELOOP",  # a link where a file belongs
        "ENXIO",  # a socket, or a device that nobody answers for
        "ENODEV",
        "EIO",  # a bad block
        "EUCLEAN",  # the file system has found itself damaged
        "EBADMSG",  # a checksum of the file system's own
        "EREMOTEIO",
    )
    if hasattr(errno, name)
)


def is_damage(error: OSError) -> bool:
    """Whether what was opened or read is not what was saved; False if it is only out of reach."""
    return error.errno in _DAMAGE


def as_it_is(error: OSError, path: str | os.PathLike[str]) -> OSError:
    """The same error, of the builtin class of its `errno`, with the whole path in its text.

    The calls name files relative to an open folder, so their own text would say which file but not
    of which checkpoint.
    """
    has_path = isinstance(error.filename, str) and os.path.isabs(error.filename)
    if error.errno is None or has_path or isinstance(error, PeakholdError):
        return error
    named = OSError(error.errno, error.strerror or os.strerror(error.errno), os.fspath(path))
    named.add_note("Nothing is known of what is there: it is neither damaged nor missing.")
    return named
