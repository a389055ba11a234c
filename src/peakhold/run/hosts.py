"""Which host a run has, by what it was given; what cannot be reached is refused.

A run that was killed would go on from epoch 7 with a model of epoch 0, and say nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peakhold.errors import InvalidArgumentError
from peakhold.host.contract import WEIGHTS, Host
from peakhold.host.finding import host_for
from peakhold.host.loop import LoopHost
from peakhold.host.nnx_state import is_of_nnx
from peakhold.host.optimizers import Optimizers
from peakhold.trees import leaf_list

__all__ = ["host_of_model", "host_of_state"]


def host_of_model(model: Any, optimizer: Any) -> Host:
    """The host of a loop that trains a model, or nothing.

    Args:
        model: What has weights, or a dict of such; None: nothing is trained.
        optimizer: Its optimizer, or a dict of several.

    Raises:
        InvalidArgumentError: If the state of one of them cannot be reached.
    """
    found = host_for(model, optimizer)
    if not isinstance(found, LoopHost):
        return found
    if model is not None and WEIGHTS not in found.parts():
        raise InvalidArgumentError.for_argument(
            "model",
            type(model).__name__,
            "a model whose weights can be got and set: PyTorch's, Keras's, Flax NNX's",
            hint="a state that the loop passes on (JAX: parameters, Optax, TrainState) is "
            "Run(..., state=state); for all else pass host=LoopHost(get_state=..., set_state=...).",
        )
    _check(optimizer)
    return found


def host_of_state(
    get: Callable[[], Any], set_: Callable[[Any], Any], optimizer: Any = None
) -> Host:
    """The host of a loop that passes a state on.

    Args:
        get: Returns the state.
        set_: Takes it back.
        optimizer: An optimizer object beside it.

    Raises:
        InvalidArgumentError: If the state is of objects that hold it themselves, or the optimizer
            has none.
    """
    state = get()
    for one in [state, *leaf_list(state, is_of_nnx)]:
        if is_of_nnx(one):
            raise InvalidArgumentError.for_argument(
                "state",
                type(one).__name__,
                "a tree of arrays that the loop passes on",
                hint="an object of Flax NNX holds its own: pass model=model, optimizer=optimizer.",
            )
    _check(optimizer)
    return LoopHost(optimizer=optimizer, get_state=get, set_state=set_)


def _check(optimizer: Any) -> None:
    for name, one in Optimizers(optimizer).by_name.items():
        alone = Optimizers(one)
        if not alone.have_state and not alone.rates():
            raise InvalidArgumentError.for_argument(
                f"optimizer[{name!r}]" if name else "optimizer",
                type(one).__name__,
                "an optimizer that holds a state, or a learning rate",
                hint="Optax's is in what the loop passes on: state={'params': params, "
                "'opt_state': opt_state}, without optimizer=.",
            )
