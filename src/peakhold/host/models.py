"""The model of a loop, or several by name, as in a GAN: how their state is got and set.

Of several, the state is a dict by their names; so a file has `g.0.weight` and `d.0.weight`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, final

from peakhold.errors import InvalidArgumentError
from peakhold.host.module_names import ModuleNames
from peakhold.host.nnx_state import nnx_access

__all__ = ["Models", "StateNames"]


class StateNames(Protocol):
    """Live and plain names of a state; see `ModuleNames`."""

    def to_plain(self, state: Any) -> Any:
        """A live state under plain names."""

    def to_live(self, state: Any, live: Any) -> Any:
        """A state under plain names under those of a live one."""

    def fitted(self, state: Any, live: Any) -> Any:
        """A kept state under the plain names of a live one."""


@final
class Models:
    """One model, several by name, or none.

    Args:
        given: Something with `get_weights()` and `set_weights()`, or with `state_dict()` and
            `load_state_dict()`, or a module of Flax NNX; a dict of those; or anything else, whose
            state cannot be reached.

    Raises:
        InvalidArgumentError: If some members of a dict are models, and others are not.
    """

    def __init__(self, given: Any) -> None:
        self.by_name: dict[str, Any] = {"": given}
        self.get_state: Callable[[], Any] | None = None
        self.set_state: Callable[[Any], Any] | None = None
        self.names: StateNames = ModuleNames(given if hasattr(given, "state_dict") else None)
        if isinstance(given, Mapping) and any(map(_access, given.values())):
            self._take_several(given)
            return
        access = _access(given)
        if access is not None:
            self.get_state, self.set_state = access

    def _take_several(self, given: Mapping[Any, Any]) -> None:
        self.by_name = {str(name): model for name, model in given.items()}
        ways = {name: _access(model) for name, model in self.by_name.items()}
        for name, way in ways.items():
            if way is None:
                raise InvalidArgumentError.for_argument(
                    f"model[{name!r}]",
                    type(self.by_name[name]).__name__,
                    "models with state_dict() and load_state_dict(), or get_weights() and "
                    "set_weights()",
                    hint="pass what is no model in extra={…}, or how to reach it in "
                    "host=LoopHost(get_state=..., set_state=...).",
                )
        known = {name: way for name, way in ways.items() if way is not None}
        self.names = _SeveralNames(
            {name: ModuleNames(model) for name, model in self.by_name.items()}
        )

        def get_state() -> dict[str, Any]:
            return {name: get() for name, (get, _) in known.items()}

        def set_state(state: Mapping[str, Any]) -> None:
            for name, (_, set_one) in known.items():
                set_one(state[name])

        self.get_state, self.set_state = get_state, set_state

    def __iter__(self) -> Iterator[Any]:
        return iter(self.by_name.values())

    def parameters(self) -> Iterator[tuple[str, Any]] | None:
        """Names and parameters of PyTorch's modules; None if one of them is none."""
        if not all(hasattr(model, "named_parameters") for model in self):
            return None
        return (
            (f"{name}.{path}" if name else path, parameter)
            for name, model in self.by_name.items()
            for path, parameter in model.named_parameters()
        )

    def buffers(self) -> frozenset[str]:
        """Plain names of the buffers of PyTorch's modules, which no gradient changes."""
        found = set()
        for name, model in self.by_name.items():
            if hasattr(model, "named_buffers"):
                plain = ModuleNames(model).plain
                before = f"{name}." if name else ""
                found |= {before + plain(path) for path, _ in model.named_buffers()}
        return frozenset(found)


def _access(model: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]] | None:
    """How the state of one model is got and set; None if it cannot be."""
    if hasattr(model, "get_weights"):
        return model.get_weights, model.set_weights
    if hasattr(model, "state_dict"):
        return model.state_dict, model.load_state_dict
    return nnx_access(model)


@final
class _SeveralNames:
    """Live and plain names of several modules' states."""

    def __init__(self, names: Mapping[str, StateNames]) -> None:
        self._names = names

    def to_plain(self, state: Any) -> Any:
        return {name: self._names[name].to_plain(one) for name, one in state.items()}

    def to_live(self, state: Any, live: Any) -> Any:
        return {name: self._names[name].to_live(one, live[name]) for name, one in state.items()}

    def fitted(self, state: Any, live: Any) -> Any:
        if not isinstance(state, Mapping):
            return state
        return {
            name: self._names[name].fitted(one, live[name]) if name in live else one
            for name, one in state.items()
        }
