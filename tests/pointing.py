"""Whose line a warning points at: looked at for every warning of every test.

`Pointing` stands in the place of `warnings` in `peakhold.speech`, through which all of ours go. It
notes the frame that a warning is put down to, the function that warned (its site), and whether that
was in `fit`. `warning_sites.py` names for each site the tests that show it.
"""

import ast
import os
import sys
import warnings
from pathlib import Path

import peakhold

PACKAGE = Path(peakhold.__file__).parent
HANDING_ON = frozenset({"warn", "warn_once", "warn_missing", "miss", "_tell_damage"})
"""Functions that warn for whoever calls them."""
NOT_OF_A_USER = (
    "/peakhold/",
    "/keras/src/",
    "/threading.py",
    "/weakref.py",
    "/contextlib.py",
    "/functools.py",
)


class Pointing:
    """Stands in the place of the module `warnings`."""

    def __init__(self, warned=lambda message: None):
        self._warned = warned
        self.seen = []
        """Site, whether in `fit`, file of the frame that it points at."""

    def __getattr__(self, name):
        return getattr(warnings, name)

    def warn(self, message, category, stacklevel):
        shown = sys._getframe(1)
        for _ in range(stacklevel - 1):
            shown = shown.f_back or shown
        self._warned(message)
        self._note(sys._getframe(2), shown.f_code.co_filename)
        warnings.warn(message, category, stacklevel + 1)

    def warn_explicit(self, message, category, filename, lineno):
        self._warned(message)
        self._note(sys._getframe(2), filename)
        warnings.warn_explicit(message, category, filename, lineno)

    def _note(self, frame, filename):
        self.seen.append((site_of(frame), in_fit(frame), filename))

    @property
    def wrong(self):
        """What points at a line that is no user's."""
        return [one for one in self.seen if any(part in one[2] for part in NOT_OF_A_USER)]


def site_of(frame):
    """The function of ours that warns, past those that hand a warning on."""
    while frame.f_code.co_name in HANDING_ON:
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(PACKAGE):
        return str(path)
    return f"{path.relative_to(PACKAGE).as_posix()}: {frame.f_code.co_qualname.partition('.<locals>')[0]}"


def in_fit(frame):
    """Whether Keras's `fit` is on the stack."""
    while frame is not None:
        if frame.f_code.co_name == "fit" and "/keras/" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def note(pointing, node):
    """For the making of the table: `PEAKHOLD_WARNING_SITES` names a file to write to."""
    path = os.environ.get("PEAKHOLD_WARNING_SITES")
    if path:
        with open(path, "a") as file:
            for site, fitted, shown in pointing.seen:
                print(node, site, "fit" if fitted else "loop", shown, sep="\t", file=file)


def sites():
    """Every site there is, by the syntax trees."""
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        if file.startswith(("testing/", "demo/")) or file == "speech.py":
            continue
        for name, node in functions(ast.parse(path.read_text("utf-8"))):
            called = (one.func for one in ast.walk(node) if isinstance(one, ast.Call))
            words = {getattr(one, "id", getattr(one, "attr", "")) for one in called}
            if node.name not in HANDING_ON and words & HANDING_ON:
                yield f"{file}: {name}"


def functions(tree, around=""):
    """Functions and methods by qualified name; what is within one belongs to it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from functions(node, f"{around}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield f"{around}{node.name}", node
        else:
            yield from functions(node, around)
