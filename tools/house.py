"""The house in figures: `python -m tools.house [--against COMMIT]` prints a table in Markdown.

No figure is written by hand: what a run goes through is counted as it runs (`entered.py`), the rest
over syntax trees (`syntax.py`). An older commit is checked out beside this tree and counted by the
same two files, with the packages of this environment. `--names` adds what was found by name.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tools import syntax

__all__ = ["Figure", "counted", "main"]

_ROOT: Final = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    what: str
    counts: tuple[int, ...]
    found: tuple[Any, ...] = ()
    """What was counted, by name."""
    at_most: tuple[int, ...] | None = None
    """What the plan asks for, where it asks for a number."""

    @property
    def holds(self) -> bool:
        """Whether the count is within the plan's bound."""
        return self.at_most is None or all(
            count <= most for count, most in zip(self.counts, self.at_most, strict=True)
        )


def counted(tree: Path) -> dict[str, Figure]:
    """All figures of a tree, each under a short name.

    Args:
        tree: The root of a checkout.
    """
    src = tree / "src"
    run = _entered(src)

    def way(name: str, what: str, at_most: tuple[int, ...] | None = None) -> Figure:
        files = run[name]["files"]
        return Figure(f"{what}: files / hops", (len(files), run[name]["hops"]), (files,), at_most)

    def number(what: str, found: list[Any], at_most: int | None = None) -> Figure:
        return Figure(what, (len(found),), (found,), None if at_most is None else (at_most,))

    names = run["names"]
    sent: list[str] = []
    kept: list[str] = []
    for codec in syntax.nan_codecs(src):
        (sent if codec.startswith("callbacks.remote_monitor:") else kept).append(codec)
    return {
        "decision": way(
            "decision", "from an epoch's end to a decision of `EarlyStopping`, in a loop", (8, 14)
        ),
        "epoch's end": way("epoch's end", "that epoch's end as a whole"),
        "save": way(
            "save", "a `.keras` save by `ModelCheckpoint` in `fit`, loops over variables", (15, 150)
        ),
        "backup": way(
            "backup", "a backup by `BackupAndRestore` in `fit`, loops over variables", (16, 230)
        ),
        "depth": Figure("depth of `ModelCheckpoint` among our classes", (run["depth"],), (), (4,)),
        "signatures": number(
            "signatures of `step` in the core, the state apart", syntax.step_signatures(src), 1
        ),
        "handlers": number(
            "methods of `Participant` with an underscore", syntax.private_handlers(src), 0
        ),
        "engines": number(
            "snapshot engines: modules that allocate memory for copies",
            syntax.snapshot_engines(src),
        ),
        "codecs": Figure(
            "NaN codecs, functions that write null, a word or a mark for it: in what Peakhold reads"
            " back / in what is sent to others, who know null",
            (len(kept), len(sent)),
            (kept, sent),
            (1, 1),
        ),
        "counters": number(
            "step counters: attributes named after steps or batches that are added to",
            syntax.step_counters(src),
            1,
        ),
        "walkers": number(
            "tree walkers: modules that go down dicts, lists and tuples", syntax.tree_walkers(src)
        ),
        "ways back": number(
            "ways to put state back: a host's `restore`, and what assigns beside it",
            syntax.ways_back(src),
        ),
        "retentions": number(
            "retentions: modules of the core that rank what is kept", syntax.retentions(src)
        ),
        "circles": number("imports in a circle, as modules run", syntax.circles(src), 0),
        "type circles": number(
            "imports in a circle, those for type checkers included", syntax.type_circles(src)
        ),
        "names": Figure(
            "names of ours on users' objects that Keras's own ten have not: private / public, on"
            " no page",
            (len(names["private"]), len(names["unexplained"])),
            (names["private"], names["unexplained"]),
        ),
        "free names": number(
            "of the private ones, those that do not say whose they are (`_peakhold_…`)",
            [name for name in names["private"] if not name.startswith("_peakhold_")],
            0,
        ),
    }


def _entered(src: Path) -> Any:
    """What `entered.py` counts, in a process of its own with the tree's own package."""
    environment = {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **os.environ,
        "KERAS_BACKEND": "torch",
        "PYTHONPATH": str(_ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tools.entered", str(src)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"counting {src} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def _checked_out(commit: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        git = ["git", "-C", str(_ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def _shown(figure: Figure | None) -> str:
    return "-" if figure is None else " / ".join(map(str, figure.counts))


def _table(before: dict[str, Figure] | None, now: dict[str, Figure]) -> Iterator[str]:
    yield "| what | before | now | then |"
    yield "|---|---|---|---|"
    for name, figure in now.items():
        earlier = None if before is None else before[name]
        bound = figure.at_most
        then = "" if bound is None else " / ".join(f"≤ {most}" if most else "0" for most in bound)
        yield f"| {figure.what} | {_shown(earlier)} | {_shown(figure)} | {then} |"
    yield "| files opened to write a deciding callback right | not counted by script | | ≤ 3 |"


def _found(name: str, figure: Figure) -> Iterator[str]:
    for group in figure.found:
        yield f"- {name}: " + "; ".join(one if isinstance(one, str) else str(one) for one in group)


def main(arguments: list[str] | None = None) -> None:
    """Print the table.

    Args:
        arguments: As on the command line, which is the default.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.house", description=__doc__)
    parser.add_argument("--against", metavar="COMMIT", help="an older commit to count beside it")
    parser.add_argument("--names", action="store_true", help="print what was found by name, too")
    options = parser.parse_args(arguments)
    before = None
    if options.against:
        with _checked_out(options.against) as tree:
            before = counted(tree)
    now = counted(_ROOT)
    print(*_table(before, now), sep="\n")
    if options.names:
        for title, figures in (("before", before or {}), ("now", now)):
            lines = [line for name, figure in figures.items() for line in _found(name, figure)]
            if lines:
                print(f"\n{title}:\n", *lines, sep="\n")


if __name__ == "__main__":
    main()
