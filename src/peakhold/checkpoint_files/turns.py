"""Whether one `ModelCheckpoint` goes on in its next fit: on the very model it has trained on.

Outer loops call `fit(epochs=1)` many times with one object. What is one, Python's identity says: a
copy, an unpickled object or a forked process has begun nothing, and a model that was made anew is
another one. The model is held weakly; its `id` alone would be given to another.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Any, final

__all__ = ["Turns"]


@final
class Turns:
    """The fits that one object has begun on one model.

    Attributes:
        told: Whether it was said that this object goes on.

    Example:
        >>> class Model: ...
        >>> turns, model = Turns(), Model()
        >>> turns.begin_on(model)
        >>> turns.continue_on(model), turns.continue_on(Model())
        (True, False)
    """

    def __init__(self) -> None:
        self.told = False
        self._model: weakref.ref[Any] | None = None
        self._pid = 0

    def __reduce__(self) -> tuple[type[Turns], tuple[()]]:
        return Turns, ()

    def begin_on(self, model: Any) -> None:
        """A fit begins on this model."""
        self._pid, self._model = os.getpid(), None
        with contextlib.suppress(TypeError):  # nothing can be said of what cannot be held weakly
            self._model = weakref.ref(model)

    def continue_on(self, model: Any) -> bool:
        """Whether a fit on this model goes on from the one before."""
        trained = None if self._model is None else self._model()
        return trained is not None and trained is model and self._pid == os.getpid()
