"""One file, committed: whole under its name at every moment, and known by the sidecar beside it."""

from peakhold.files.one_file import (
    CommittedFile,
    commit,
    flush,
    hash_file,
    keep_aside,
    make_folder,
    probe,
    sweep,
)

__all__ = [
    "CommittedFile",
    "commit",
    "flush",
    "hash_file",
    "keep_aside",
    "make_folder",
    "probe",
    "sweep",
]
