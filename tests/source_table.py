"""The table of `docs/explanation/exact-inside-an-epoch.md`, of what the tests of sources try.

`python -m source_table` in `tests` prints it.
"""

import pathlib
import subprocess
import sys

from source_kinds import OTHERS, TORCH

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "explanation" / "exact-inside-an-epoch.md"
ANCHOR = "<!-- the tables begin -->"
IN_PROCESS = {"DataLoader of PyTorch": TORCH, "Arrays, lists, iterables": OTHERS}
ELSEWHERE = {
    "StatefulDataLoader of torchdata": "torchdata",
    "tf.data": "tensorflow",
    "Grain": "grain",
    "Arrays of JAX": "jax",
}
"""By title: the package, whose kinds are tried in a process of its own."""
HEAD = (
    "| loader | the batches before | rows, order, dropout, later epochs | augmentation |",
    "|---|---|---|---|",
)


def line_of(kind):
    """A row."""
    before = "made again, and thrown away" if kind.loads else "not loaded"
    augmented = "exact" if kind.augmented else "**drawn anew**"
    name = f"{kind.name}, with `replay=True`" if kind.replay else kind.name
    return f"| {name} | {before} | exact | {augmented} |"


def shown():
    """The rows of the page, by title."""
    found, title = {}, ""
    for line in PAGE.read_text(encoding="utf-8").partition(ANCHOR)[2].splitlines():
        if line.startswith("## "):
            title = line[3:]
        elif line.startswith("| ") and line not in HEAD:
            found.setdefault(title, []).append(line)
    return found


if __name__ == "__main__":
    rig = pathlib.Path(__file__).parent / "source_rig.py"
    print(ANCHOR)
    for name, kinds in IN_PROCESS.items():
        print("", f"## {name}", "", *HEAD, *map(line_of, kinds), sep="\n")
    for name, package in ELSEWHERE.items():
        print("", f"## {name}", "", *HEAD, sep="\n", flush=True)
        subprocess.run([sys.executable, str(rig), package], check=True)
