"""Runs the Python blocks of pages, each page in a namespace, a folder and an environment of its own.

A process of its own: `run_pages.py UNIT...`, where a unit is a page (Markdown) or a script. Prints one
line of JSON for each, `{"unit": …, "error": …}`. The backend is that of `KERAS_BACKEND`; a block whose
fence says ``python backend=NAME`` runs only in a process of that backend, and any other only in that
of PyTorch. A warning of Peakhold's, or a notice of advice, fails a block, for the docs give good
examples, unless its fence says ``python warns``.

A fence called ``output`` holds what the Python block before it prints; `...` stands for anything.
"""

import contextlib
import doctest
import io
import json
import os
import pathlib
import re
import sys
import tempfile
import traceback
import types
import warnings

DEFAULT_BACKEND = "torch"
FENCE = re.compile(r"^( *)```(\w*)([^\n`]*)\n(.*?)^\1```\s*$", re.MULTILINE | re.DOTALL)


def blocks(text):
    """`(kind, backend, line, content, warns)` of each fence; lines count from 1."""
    for match in FENCE.finditer(text):
        indent, kind, rest, content = match.groups()
        content = "".join(line.removeprefix(indent) for line in content.splitlines(keepends=True))
        backend = re.search(r"backend=(\w+)", rest)
        line = text.count("\n", 0, match.start()) + 2
        name = backend.group(1) if backend else DEFAULT_BACKEND
        yield kind, name, line, content, "warns" in rest.split()


def backends(path):
    """Backends that the blocks of a page need."""
    if path.suffix == ".py":
        needs_tensorflow = "import tensorflow" in path.read_text(encoding="utf-8")
        return {"tensorflow" if needs_tensorflow else DEFAULT_BACKEND}
    found = blocks(path.read_text(encoding="utf-8"))
    return {backend for kind, backend, *_ in found if kind == "python"}


def _pairs(path, backend):
    """`(line, source, warns, expected output or None)` of each Python block."""
    if path.suffix == ".py":
        yield 1, path.read_text(encoding="utf-8"), False, None
        return
    mine = [
        b for b in blocks(path.read_text(encoding="utf-8")) if b[1] == backend or b[0] != "python"
    ]
    for block, after in zip(mine, [*mine[1:], (None,) * 5], strict=True):
        if block[0] == "python":
            yield block[2], block[3], block[4], after[3] if after[0] == "output" else None


def _check_output(expected, got):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if not doctest.OutputChecker().check_output(expected, got, flags):
        raise AssertionError(f"expected the output\n{expected}\ngot\n{got}")


def run(path, backend):
    from peakhold.errors import PeakholdWarning

    module = types.ModuleType("__main__")
    module.__file__ = str(path)
    for line, source, warns, expected in _pairs(path, backend):
        code = compile("\n" * (line - 1) + source, str(path), "exec")
        said = io.StringIO()
        with contextlib.redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore" if warns else "error", PeakholdWarning)
            exec(code, vars(module))
        if not warns and "peakhold.silence(" in said.getvalue():
            raise AssertionError(f"a notice of advice:\n{said.getvalue()}")
        if expected is not None:
            _check_output(expected, said.getvalue())


def main(units):
    if os.environ["KERAS_BACKEND"] == "torch":
        import torch

        torch.set_num_threads(1)
    from peakhold.advice import said
    from peakhold.runtime import narration

    narration._told.add("E10")  # that /tmp is held in memory, as on Debian 13

    out = os.dup(1)
    for unit in units:
        error, home, environment = None, pathlib.Path.cwd(), dict(os.environ)
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                run(pathlib.Path(unit), os.environ["KERAS_BACKEND"])
            except BaseException:
                error = traceback.format_exc()
            finally:
                os.chdir(home)
                os.environ.clear()
                os.environ.update(environment)
                said._silenced.clear()
        os.write(out, (json.dumps({"unit": unit, "error": error}) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
