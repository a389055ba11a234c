"""The demo's second part: a loop that kills itself inside an epoch, and ends with the same bits."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

__all__ = ["KILL_AT", "show_a_kill"]

KILL_AT = 51
"""In the third epoch of 18 batches each, and between two checkpoints."""


def show_a_kill(out: Path) -> tuple[str, bool, str] | None:
    """Train in processes of their own: unbroken; killed; and on with the same line.

    Args:
        out: Folder for their files.

    Returns:
        What is claimed, whether it holds, and what is the case otherwise; None without PyTorch.
    """
    if importlib.util.find_spec("torch") is None:
        return None
    for name in ("loop", "loop-killed"):
        shutil.rmtree(out / name, ignore_errors=True)  # of an earlier demo
    whole = _run(out / "loop")
    killed = _run(out / "loop-killed", "--kill-at", str(KILL_AT))
    if killed.returncode != -signal.SIGKILL:
        return "", False, f"the loop that kills itself ended with {killed.returncode}"
    resumed = _run(out / "loop-killed")
    bits = whole.stdout.strip(), resumed.stdout.strip()
    failed = whole.returncode or resumed.returncode
    claim = (
        f"a PyTorch loop, killed with SIGKILL in batch {KILL_AT} and started again, ended with the "
        f"bits of the unbroken one ({bits[0]})"
    )
    return (
        claim,
        not failed and bits[0] == bits[1] != "",
        f"the loop ended with {bits[1] or 'an error'}, the unbroken one with {bits[0]}",
    )


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "peakhold.demo.loop", str(folder), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 - our own module
