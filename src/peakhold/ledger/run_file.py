"""`run.json`: what a run is, written when it begins for the first time, and not changed after.

Rules of this file:

1. Never a secret: what looks like one is masked in the command line and in the settings.
2. Nobody waits long for it: git is asked for two seconds at most, and need not be there.
3. A reader takes what it finds: a file that is damaged, or is none, is no file.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from peakhold import files
from peakhold._version import __version__
from peakhold.disk.disk import Disk
from peakhold.errors import SaveError
from peakhold.ledger.lines import from_line, to_line
from peakhold.ledger.masking import Masking
from peakhold.ledger.reading import read_small

__all__ = ["FORMAT", "NAME", "git_state", "read_run_file", "write_run_file"]

NAME: Final = "run.json"
FORMAT: Final = 1
_GIT_S: Final = 2.0
_PACKAGES: Final = ("numpy", "torch", "jax", "tensorflow", "keras", "optax", "flax")
"""What is told the version of, where it is loaded."""


def write_run_file(
    folder: str | os.PathLike[str],
    *,
    run_id: str,
    settings: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    command: Sequence[str] | None = None,
    disk: Disk | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Write what a run is, durably.

    Args:
        folder: Of the run; it exists.
        run_id: Its name.
        settings: What the user set, as plain JSON.
        versions: Of more packages than those that are loaded and known.
        command: The command line. Defaults to this process's.
        disk: The calls to the system. Defaults to the real ones.
        more: What else there is to say.

    Returns:
        What was written.

    Raises:
        SaveError: If it cannot be.
        InvalidArgumentError: If the settings are not plain JSON.
    """
    masking = Masking.of_this_process()
    line = to_line(
        masking.of_tree(
            {
                "kind": "run",
                "format": FORMAT,
                "id": run_id,
                "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "host": socket.gethostname(),
                "platform": platform.platform(),
                "python": platform.python_version(),
                "versions": {**_loaded(_PACKAGES), **(versions or {})},
                "git": git_state(),
                "settings": dict(settings or {}),
                **more,
            }
            | {"command": masking.of_command(_command() if command is None else command)}
        )
    )
    path = os.path.join(folder, NAME)
    shown = json.dumps(json.loads(line), indent=2).encode("ascii") + b"\n"
    try:
        files.commit(path, lambda file: file.write(shown), disk=disk)
    except OSError as error:
        raise SaveError.because_of(
            error,
            path,
            expected="a file that says what the run is",
            hint="pass another folder, or make this one writable.",
        ) from error
    written = from_line(line)
    assert written is not None  # noqa: S101 - it was made a line ago
    return written


def read_run_file(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What `write_run_file` wrote; None if there is no such file, or it is damaged.

    Args:
        folder: Of the run.
    """
    data = read_small(os.path.join(folder, NAME))
    run = None if data is None else from_line(data)
    return run if run is not None and isinstance(run.get("id"), str) else None


def _loaded(packages: Iterable[str]) -> dict[str, str]:
    versions = {"peakhold": __version__}
    for name in packages:
        if name in sys.modules:
            version = getattr(sys.modules[name], "__version__", None)
            versions[name] = str(version) if version else importlib.metadata.version(name)
    return versions


def _command() -> list[str]:
    """As it was typed, as far as that can be known."""
    return [os.path.basename(sys.executable), *(sys.orig_argv[1:] or sys.argv)]


def git_state(folder: str | None = None, *, timeout_s: float = _GIT_S) -> dict[str, Any] | None:
    """Which commit the program is of, and whether files that git knows were changed since.

    Args:
        folder: Where to ask. Defaults to that of the script, or else the working directory.
        timeout_s: Seconds to wait for both answers.

    Returns:
        `commit` and `dirty`, which is None if git took too long; None if there is no git, or no
        repository.
    """
    if folder is None:
        script = getattr(sys.modules.get("__main__"), "__file__", None)
        folder = os.path.dirname(os.path.abspath(script)) if script else os.getcwd()
    until = time.monotonic() + timeout_s
    commit = _git(folder, ["rev-parse", "--verify", "HEAD"], until)
    if not commit:
        return None
    changed = _git(folder, ["status", "--porcelain", "--untracked-files=no"], until)
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def _git(folder: str, words: Sequence[str], until: float) -> str | None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(  # noqa: S603 - git, with fixed words
            ["git", "-c", "core.fsmonitor=false", "-C", folder, *words],  # noqa: S607
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=max(until - time.monotonic(), 0.01),
            check=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace").strip()
