"""Names of a module's state as they are without what wraps it.

`torch.compile` puts the model under `_orig_mod`, data parallelism under `module`: the same model
has other names in its state. Files and backups carry the plain names, so that either loads into
either. Wrappers are known by their type: a model may have a child called `module` of its own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final, final

__all__ = ["ModuleNames", "unwrapped"]

_WRAPPERS: Final = (
    ("torch._dynamo.eval_frame", "OptimizedModule", "_orig_mod"),
    ("torch.nn.parallel.data_parallel", "DataParallel", "module"),
    ("torch.nn.parallel.distributed", "DistributedDataParallel", "module"),
)
"""Module, class, and the name under which it holds what it wraps."""
_ANY_WRAPPER: Final = re.compile(r"(?<![^.])(_orig_mod|module)\.")


@final
class ModuleNames:
    """Live and plain names of one module's state.

    Args:
        module: A `torch.nn.Module`; anything else has no wrappers.
    """

    def __init__(self, module: Any) -> None:
        self._wrapped = dict(_wrapped_in(module))

    def plain(self, name: str) -> str:
        """The name without wrappers."""
        kept, path = [], ""
        for word in name.split("."):
            if self._wrapped.get(path) != word:
                kept.append(word)
            path = f"{path}.{word}" if path else word
        return ".".join(kept)

    def to_plain(self, state: Any) -> Any:
        """A live state under plain names, in a container like its own."""
        return self._renamed(state, self.plain) if self._wrapped else state

    def to_live(self, state: Any, live: Any) -> Any:
        """A state under plain names under those of a live one."""
        if not self._wrapped:
            return state
        names = {self.plain(name): name for name in live}
        return self._renamed(state, lambda name: names.get(name, name))

    def fitted(self, state: Any, live: Any) -> Any:
        """A kept state, under plain names or any wrapper's, under the plain names of a live one."""
        if not (_is_named(state) and _is_named(live)) or state.keys() == live.keys():
            return state
        for rename in (self.plain, lambda name: _ANY_WRAPPER.sub("", name)):
            known = {rename(name): name for name in live}
            names = {name: known.get(rename(name)) for name in state}
            if len(known) == len(live) and set(names.values()) == set(live):
                return {names[name]: value for name, value in state.items()}
        return state

    @staticmethod
    def _renamed(state: Any, rename: Any) -> Any:
        renamed = type(state)((rename(name), value) for name, value in state.items())
        if hasattr(state, "_metadata"):  # the versions of modules' states, by module
            renamed._metadata = state._metadata
        return renamed


def _is_named(state: Any) -> bool:
    return isinstance(state, Mapping) and all(isinstance(name, str) for name in state)


def unwrapped(module: Any) -> Any:
    """What wrappers of PyTorch hold, however many; anything else as it is."""
    kinds = _kinds()
    while held := next((held for kind, held in kinds.items() if isinstance(module, kind)), None):
        module = getattr(module, held)
    return module


def _kinds() -> dict[type, str]:
    """The wrappers that this process can have, and the name of what each holds."""
    kinds = {}
    for home, kind, held in _WRAPPERS:
        known = getattr(sys.modules.get(home), kind, None)
        if known is not None:
            kinds[known] = held
    return kinds


def _wrapped_in(module: Any) -> Iterable[tuple[str, str]]:
    """Paths of wrappers in a module, and the name of what each holds."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(module, torch.nn.Module):
        return
    kinds = _kinds()
    for path, child in module.named_modules(remove_duplicate=False):
        for kind, held in kinds.items():
            if isinstance(child, kind):
                yield path, held
