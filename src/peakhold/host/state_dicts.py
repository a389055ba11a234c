"""State dicts of modules and optimizers: giving back what was copied or loaded.

An optimizer of PyTorch casts its moments to the parameters' dtype when it loads them; one that
keeps narrower ones (float8, 8-bit optimizers) would go on with others than it had. Of text beside
them it makes the name of a generator. What was changed so is put right.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from peakhold.errors import InvalidArgumentError
from peakhold.host.models import StateNames
from peakhold.host.module_names import ModuleNames
from peakhold.host.nnx_state import nnx_access
from peakhold.host.onto_live import like_live

__all__ = ["give_back", "load_optimizer", "module_like", "optimizer_like"]


def give_back(loaded: Any, to: Any) -> None:
    """Load a part of a checkpoint into the module, model or optimizer that it was saved from.

    `store.load(...)["model"]` is plain: arrays of NumPy, dicts, lists. PyTorch's `load_state_dict`
    refuses that; this gives it tensors of the kinds it has, under the names it has, whatever it is
    wrapped in (`torch.compile`, `DataParallel`) now or was when it was saved. For a state that is a
    value, as in JAX, see `like_live`.

    Args:
        loaded: What was saved of it: `state_dict()`, or `get_weights()`.
        to: Has `state_dict` and `load_state_dict`, or `get_weights` and `set_weights`; or is of
            Flax NNX.

    Raises:
        InvalidArgumentError: If it has neither.

    Example:
        >>> import numpy as np
        >>> class Model:
        ...     def get_weights(self):
        ...         return [np.zeros(2, np.float32)]
        ...     def set_weights(self, weights):
        ...         print(weights)
        >>> give_back([np.ones(2)], Model())
        [array([1., 1.], dtype=float32)]
    """
    if hasattr(to, "get_weights"):
        to.set_weights(like_live(loaded, to.get_weights()))
    elif hasattr(to, "param_groups"):
        load_optimizer(to, optimizer_like(loaded, to))
    elif hasattr(to, "load_state_dict"):
        to.load_state_dict(module_like(loaded, to.state_dict(), ModuleNames(to)))
    elif access := nnx_access(to):
        access[1](like_live(loaded, access[0]()))
    else:
        raise InvalidArgumentError.for_argument(
            "to",
            type(to).__name__,
            "an object with load_state_dict or set_weights",
            hint="for a state that is a value, use peakhold.like_live(loaded, live).",
        )


def module_like(tree: Any, live: Any, names: StateNames) -> Any:
    """A module's state, under plain names or any wrapper's, as a live one has it."""
    plain = names.to_plain(live)
    return names.to_live(like_live(names.fitted(tree, plain), plain), live)


def optimizer_like(tree: Any, optimizer: Any) -> Any:
    """An optimizer's state in the types that it has now."""
    # A new optimizer of PyTorch has no tensors yet: they are to be of its parameters' kind, and it
    # sees to their places itself.
    groups = getattr(optimizer, "param_groups", None) or [{}]
    stray = next(iter(groups[0].get("params", ())), None)
    return like_live(tree, optimizer.state_dict(), stray)


def load_optimizer(optimizer: Any, state: Any) -> None:
    """Load a state of the optimizer's own types, in the dtypes that it has there."""
    optimizer.load_state_dict(state)
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(optimizer, torch.optim.Optimizer):
        return
    groups = zip(state["param_groups"], optimizer.param_groups, strict=True)
    for kept, live in groups:
        for index, parameter in zip(kept["params"], live["params"], strict=True):
            moments, own = state["state"].get(index), optimizer.state.get(parameter)
            if isinstance(moments, Mapping) and isinstance(own, dict):
                own.update(_cast_back(moments, own))


def _cast_back(kept: Mapping[str, Any], cast: Mapping[str, Any]) -> dict[str, Any]:
    right: dict[str, Any] = {}
    for name, value in kept.items():
        live: Any = cast.get(name)
        if isinstance(value, (str, bytes)):
            right[name] = value
        elif hasattr(value, "dtype") and hasattr(live, "device") and live.dtype != value.dtype:
            right[name] = value.to(live.device)
    return right
