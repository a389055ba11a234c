"""What a run goes through, and what is found on objects: counted in a process of its own.

`python -m tools.entered SRC` imports `peakhold` from the folder SRC and prints one line of JSON.
It knows public names alone, so that it counts older trees, too.

The way. `sys.setprofile` tells of every function of ours that is entered below the hook for the end
of the third epoch (the first has imports and one-time work, the second plans what is saved), and of
all that the writer's thread does from then on. What it still did for the epoch before is waited
for, so that two counts are the same, but for a few hops of a save that hang on which of two threads
comes first. A *file* is one in which a function was entered; a *hop* is a function that lies in
another file than the one entered before it, in the same thread. Loops over variables count.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

__all__ = ["main"]

_EPOCH: Final = 2
_DROP_INS: Final = {
    "BackupAndRestore": ("backup",),
    "CSVLogger": ("log.csv",),
    "EarlyStopping": (),
    "LearningRateScheduler": (float,),
    "ModelCheckpoint": ("best.keras",),
    "ReduceLROnPlateau": (),
    "RemoteMonitor": (),
    "SwapEMAWeights": (),
    "TensorBoard": ("logs",),
    "TerminateOnNaN": (),
}
"""Those that Keras has, too, and what each must be given."""


class Way:
    """The functions of ours that are entered from the end of the third epoch on.

    Args:
        root: The folder of the package, with a separator at its end.
        until: Called with the file and the name of each function that returns; true where the way
            ends. None: it ends with the hook.
    """

    def __init__(self, root: str, until: Callable[[str, str], bool] | None = None) -> None:
        self._root, self._until = root, until
        self._hook: FrameType | None = None
        self._open = self._over = False
        self._files: dict[str, list[str]] = {}
        """By thread, the files of the functions that were entered."""

    def __enter__(self) -> Self:
        threading.setprofile(self._look)
        sys.setprofile(self._look)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _look(self, frame: FrameType, event: str, arg: Any) -> None:
        path = frame.f_code.co_filename
        if event not in {"call", "return"} or not path.startswith(self._root):
            return
        if event == "return":
            self._leave(frame, path)
            return
        thread = threading.current_thread()
        main = thread is threading.main_thread()
        if main and self._is_hook(frame, "on_epoch_begin"):
            _wait_for_writers()  # the news of it is of the epoch before, too
        if main and self._hook is None and not self._over and self._begins(frame):
            _wait_for_writers()
            self._hook, self._open = frame, True
        if self._open and (self._hook is not None or not main):
            self._files.setdefault(thread.name, []).append(path.removeprefix(self._root))

    def _begins(self, frame: FrameType) -> bool:
        return self._is_hook(frame, "on_epoch_end")

    @staticmethod
    def _is_hook(frame: FrameType, name: str) -> bool:
        return frame.f_code.co_name == name and frame.f_locals.get("epoch") == _EPOCH

    def _leave(self, frame: FrameType, path: str) -> None:
        if self._hook is None:
            return
        until = self._until
        decided = until is not None and until(path, frame.f_code.co_qualname)
        if decided or frame is self._hook:
            self._hook, self._over = None, True
            self._open = until is None  # a decision is the end; a save goes on in the writer

    def told(self) -> dict[str, Any]:
        """The files, and how many hops there were between them."""
        rows = list(self._files.values())
        hops = sum(a != b for row in rows for a, b in itertools.pairwise(row))
        return {"files": sorted({path for row in rows for path in row}), "hops": hops}


def _wait_for_writers() -> None:
    """A writer's thread ends when it has nothing to do."""
    for thread in threading.enumerate():
        if thread.name.startswith("peakhold"):
            thread.join()


def _is_decision(path: str, name: str) -> bool:
    return f"{os.sep}policies{os.sep}" in path and name.endswith(".step")


def _decision(root: str, until: Callable[[str, str], bool] | None) -> dict[str, Any]:
    from peakhold import CallbackList, EarlyStopping

    callbacks = CallbackList([EarlyStopping("loss", patience=3)], verbose=0)
    with Way(root, until) as way:
        callbacks.on_train_begin()
        for epoch in range(_EPOCH + 1):
            callbacks.on_epoch_begin(epoch)
            callbacks.on_epoch_end(epoch, {"loss": 0.5 - 0.1 * epoch})
        callbacks.on_train_end()
    return way.told()


def _fit(root: str, callback: Any) -> dict[str, Any]:
    import numpy as np

    import keras

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    ones = np.ones((8, 1))
    with Way(root) as way:
        model.fit(ones, ones, epochs=_EPOCH + 1, verbose=0, callbacks=[callback])
    return way.told()


def _depth(cls: type) -> int:
    """Classes of ours from one to its farthest base, both included."""
    bases = [base for base in cls.__bases__ if base.__module__.startswith("peakhold")]
    return 1 + max(map(_depth, bases), default=0)


def _names(tree: Path) -> dict[str, Any]:
    """Names on our drop-ins that Keras's own have not, and that stand on no page."""
    import keras
    import peakhold.keras

    pages = "\n".join(page.read_text() for page in sorted((tree / "docs").rglob("*.md")))
    private, public = set(), set()
    for name, arguments in _DROP_INS.items():
        cls = getattr(peakhold.keras, name)
        stock = getattr(keras.callbacks, name)
        theirs = set(dir(stock(*arguments)))
        for method in vars(stock).values():  # what its hooks set on the object
            theirs |= set(getattr(getattr(method, "__code__", None), "co_names", ()))
        words = pages + "\n".join(c.__doc__ or "" for c in cls.__mro__)
        known = set(re.findall(r"\w+", words))
        ours = set(dir(cls(*arguments))) - theirs
        private |= {one for one in ours if one.startswith("_") and not one.startswith("__")}
        public |= {one for one in ours if not one.startswith("_") and one not in known}
    return {"private": sorted(private), "unexplained": sorted(public)}


def main(src: str) -> dict[str, Any]:
    """All figures of one tree.

    Args:
        src: The folder that holds `peakhold`.
    """
    sys.path.insert(0, src)
    import peakhold
    import peakhold.keras

    root = os.path.join(os.path.realpath(src), "peakhold", "")
    if not os.path.realpath(peakhold.__file__).startswith(root):
        raise SystemExit(f"counted would be {peakhold.__file__}, which is not below {root}")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        return {
            "decision": _decision(root, _is_decision),
            "epoch's end": _decision(root, None),
            "save": _fit(root, peakhold.keras.ModelCheckpoint("best-{epoch}.keras")),
            "backup": _fit(root, peakhold.keras.BackupAndRestore("backup")),
            "depth": _depth(peakhold.ModelCheckpoint),
            "names": _names(Path(src).resolve().parent),
        }


if __name__ == "__main__":
    print(json.dumps(main(os.path.realpath(sys.argv[1]))))
