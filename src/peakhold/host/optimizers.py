"""The optimizers of a loop: one, or several by name, as in a GAN.

One behaves as it always did: its state is its `state_dict()`, its only rate has the empty name. Of
several, the state is a dict by their names, and so are the rates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

from peakhold.errors import HostError
from peakhold.host.nnx_state import is_of_nnx, nnx_access
from peakhold.host.onto_live import like_live
from peakhold.host.state_dicts import load_optimizer, optimizer_like
from peakhold.host.step_hooks import step_hook
from peakhold.trees import to_host

__all__ = ["Optimizers"]


@final
class Optimizers:
    """One optimizer, several by name, or none.

    Args:
        given: A `torch.optim.Optimizer`, one of Keras's or of Flax NNX's, or anything with a
            `learning_rate` that can be set; a dict of those; or None.
        models: The models by name: an optimizer of Keras that is not built yet is built for the one
            of its name.

    Example:
        >>> class Optimizer:
        ...     learning_rate = 0.1
        >>> optimizers = Optimizers({"g": Optimizer(), "d": Optimizer()})
        >>> optimizers.set_rate("d", 0.01)
        >>> optimizers.rates()
        {'g': 0.1, 'd': 0.01}
    """

    def __init__(self, given: Any, models: Mapping[str, Any] | None = None) -> None:
        self._models = models or {}
        self.are_named = isinstance(given, Mapping)
        """Whether they were given by name."""
        self.by_name: dict[str, Any] = {}
        if isinstance(given, Mapping):
            self.by_name = {str(name): one for name, one in given.items()}
        elif given is not None:
            self.by_name = {"": given}

    def __iter__(self) -> Iterator[Any]:
        return iter(self.by_name.values())

    # State

    @property
    def _with_state(self) -> dict[str, Any]:
        return {
            name: one
            for name, one in self.by_name.items()
            if hasattr(one, "load_state_dict") or _is_of_keras(one) or is_of_nnx(one)
        }

    @property
    def have_state(self) -> bool:
        """Whether there is a state to copy."""
        return bool(self._with_state)

    def state(self) -> Any:
        """Their state."""
        states = {name: _state_of(one) for name, one in self._with_state.items()}
        return states if self.are_named else states[""]

    def like(self, tree: Any) -> Any:
        """A copied state in the types that it has now."""
        if not self.are_named:
            return _like(tree, self.by_name[""])
        return {name: _like(tree[name], one) for name, one in self._with_state.items()}

    def load(self, state: Any) -> None:
        """Load a state of their own types."""
        for name, one in self._with_state.items():
            own = state[name] if self.are_named else state
            if _is_of_keras(one):
                _load_variables(one, own, self._models.get(name))
            elif access := nnx_access(one):
                access[1](own)
            else:
                load_optimizer(one, own)
                if isinstance(own, Mapping) and own.get("state"):
                    # Else a scheduler of PyTorch that comes next warns that there was no step.
                    one._opt_called = True

    def mismatches(self, tree: Any) -> list[str]:
        """What keeps a copied state from being loaded, in words."""
        if not self.have_state:
            return []
        now = self._with_state
        if self.are_named and isinstance(tree, Mapping) and set(tree) == set(now):
            return []
        is_dict = isinstance(tree, Mapping) and bool(tree)
        was_named = is_dict and all(map(_is_state, tree.values()))
        if not self.are_named:
            return [f"optimizers {_listed(tree)} in the backup, one now"] * was_named
        then = f"optimizers {_listed(tree)}" if was_named else "one optimizer"
        return [f"{then} in the backup, {_listed(now)} now"]

    # Rates

    def _places(self) -> Iterator[tuple[str, Any, Any]]:
        """Name of each rate, the optimizer, and the group that holds it; None: the optimizer."""
        for name, one in self.by_name.items():
            groups = getattr(one, "param_groups", None)
            if groups is None:
                if getattr(one, "learning_rate", None) is not None:
                    yield name, one, None
                continue
            for number, group in enumerate(groups):
                words = [name] * self.are_named + [str(number)] * (len(groups) > 1)
                yield "_".join(words), one, group

    def rates(self) -> dict[str, float]:
        """Rate by name; empty: the only one."""
        return {
            name: float(one.learning_rate if group is None else group["lr"])
            for name, one, group in self._places()
        }

    def set_rate(self, name: str, value: float) -> None:
        """Set one rate."""
        for known, one, group in self._places():
            if known != name:
                continue
            if group is None:
                one.learning_rate = value
            elif hasattr(group["lr"], "fill_"):  # capturable optimizers keep a tensor
                group["lr"].fill_(value)
            else:
                group["lr"] = value
            return
        raise KeyError(name)

    # Steps

    @property
    def tell_of_steps(self) -> bool:
        """Whether at least one of them calls who asks for it before its steps."""
        return any(hasattr(one, "register_step_pre_hook") for one in self)

    def at_next_step(self, work: Callable[[], Any]) -> None:
        """Have work done once, right before the next step of each of them."""
        for one in self:
            hook = step_hook(one)
            if hook is not None:
                hook.at_next_step[:] = [work]

    def parameters(self) -> Iterator[tuple[str, Any]]:
        """Names, by number, and parameters of PyTorch's."""
        for name, one in self.by_name.items():
            for number, group in enumerate(getattr(one, "param_groups", ())):
                for i, parameter in enumerate(group["params"]):
                    yield ".".join([name] * self.are_named + [str(number), str(i)]), parameter


def _is_state(tree: Any) -> bool:
    """Whether this is the state of one optimizer of PyTorch's, Keras's or Flax NNX's."""
    return isinstance(tree, Mapping) and (
        {"state", "param_groups"} <= tree.keys() or "0" in tree or "step" in tree
    )


def _is_of_keras(optimizer: Any) -> bool:
    """Whether it has Keras's way to save: numbered arrays, by two methods."""
    return hasattr(optimizer, "load_own_variables") and not hasattr(optimizer, "load_state_dict")


def _state_of(optimizer: Any) -> Any:
    access = nnx_access(optimizer)
    if access is not None:
        return access[0]()
    if not _is_of_keras(optimizer):
        return optimizer.state_dict()
    state: dict[str, Any] = {}
    optimizer.save_own_variables(state)
    return state


def _like(tree: Any, optimizer: Any) -> Any:
    access = nnx_access(optimizer)
    if access is not None:
        return like_live(tree, access[0]())
    if not _is_of_keras(optimizer):
        return optimizer_like(tree, optimizer)
    return {str(name): to_host(value) for name, value in tree.items()}


def _load_variables(optimizer: Any, state: Mapping[str, Any], model: Any) -> None:
    """Load the variables of an optimizer of Keras, which leaves them alone if their number differs.

    Raises:
        HostError: If it is not built for what it had.
    """
    if len(optimizer.variables) != len(state) and not optimizer.built:
        optimizer.build(getattr(model, "trainable_variables", []))
    if len(optimizer.variables) != len(state):
        raise HostError.lacks(
            "the state of an optimizer",
            f"one that is built for {len(state)} variables",
            f"{type(optimizer).__name__} with {len(optimizer.variables)}",
            hint="call optimizer.build(model.trainable_variables) before on_train_begin().",
        )
    optimizer.load_own_variables(state)


def _listed(named: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, named))
