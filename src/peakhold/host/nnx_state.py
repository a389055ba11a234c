"""Objects of Flax NNX, which hold their own arrays: modules, optimizers, streams of random numbers.

Their state is got as PyTorch's modules give theirs: a flat dict by dotted names, `layers.0.kernel`.

Rules of this file:

1. No attribute is set on such an object: what it has is part of what `nnx.jit` compiles for.
2. What is put back goes into the variables that are there, so that whoever shares them sees it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from peakhold.errors import InvalidArgumentError

__all__ = ["Access", "is_of_nnx", "nnx_access"]

Access: TypeAlias = tuple[Callable[[], Any], Callable[[Any], Any]]
"""How a state is got and set."""


def is_of_nnx(one: Any) -> bool:
    """Whether this holds variables of Flax NNX; nothing is imported to see it."""
    nnx = sys.modules.get("flax.nnx")
    # Before 0.11 there was no `Pytree`, and `Object` was its name.
    base = getattr(nnx, "Pytree", None) or getattr(nnx, "Object", None)
    return isinstance(base, type) and isinstance(one, base)


def nnx_access(one: Any) -> Access | None:
    """How the state of an object of Flax NNX is got and set; None if it is none.

    Raises:
        InvalidArgumentError: By what is returned, if two of its variables have one name.
    """
    if not is_of_nnx(one):
        return None
    nnx: Any = sys.modules["flax.nnx"]

    def variables() -> dict[str, tuple[Any, Any]]:
        """By name: the path, and the variable."""
        flat = list(nnx.to_flat_state(nnx.state(one)))
        named = {".".join(map(str, path)): (path, variable) for path, variable in flat}
        if len(named) != len(flat):
            raise InvalidArgumentError.for_argument(
                "model",
                type(one).__name__,
                "a module of Flax NNX whose variables have different dotted names",
                hint="leave dots out of the names of attributes, and of keys of nnx.Dict.",
            )
        return named

    def get() -> dict[str, Any]:
        return {
            name: variable.get_value() if isinstance(variable, nnx.Variable) else variable
            for name, (_, variable) in variables().items()
        }

    def set_(state: Mapping[str, Any]) -> None:
        new = [
            (path, variable.replace(state[name]) if isinstance(variable, nnx.Variable) else
             state[name])
            for name, (path, variable) in variables().items()
            if name in state
        ]  # fmt: skip
        nnx.update(one, nnx.from_flat_state(new))

    return get, set_
