"""What a run takes along besides its model and its optimizer: schedulers, scalers, averages.

Anything with `state_dict()` and `load_state_dict()`, or two functions that get and set a state. It
belongs to backups and to their resumes, and to nothing else: the best weights are put back without.

`Extras` borrows like a host, so that its states are copied in the memory of a snapshot pool.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, final

from peakhold.errors import InvalidArgumentError
from peakhold.host.nnx_state import nnx_access
from peakhold.host.onto_live import like_live, taken_apart
from peakhold.host.resume import shapes_that_differ
from peakhold.host.state_dicts import give_back
from peakhold.host.torch_tensors import is_lazy
from peakhold.trees import leaf_list

__all__ = ["EXTRA", "Extras"]

EXTRA: Final = "extra"
"""The part of a backup that holds their states."""


@final
class Extras:
    """Further objects with a state, by name.

    Args:
        given: By name: an object with `state_dict` and `load_state_dict`, one of Flax NNX's, or a
            pair of functions, one that returns a state and one that takes it back. None: there are
            none.

    Raises:
        InvalidArgumentError: If it is no dict of such.

    Example:
        >>> count = {"n": 3}
        >>> extras = Extras({"count": (lambda: dict(count), count.update)})
        >>> kept = extras.borrow([EXTRA])[EXTRA]
        >>> count["n"] = 7
        >>> extras.put_back("count", kept["count"])
        >>> count
        {'n': 3}
    """

    def __init__(self, given: Any = None) -> None:
        if given is not None and not isinstance(given, Mapping):
            raise InvalidArgumentError.for_argument(
                "extra",
                given,
                "a dict of what a backup is to hold besides model and optimizer",
                hint='pass extra={"scheduler": scheduler}.',
            )
        self._items: dict[str, Any] = dict(given or {})
        self._functions = {name: _functions_of(name, one) for name, one in self._items.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """What they are called."""
        return tuple(self._items)

    def objects(self) -> Iterator[Any]:
        """Objects whose states are in them, as far as that can be seen."""
        for one in self._items.values():
            if not isinstance(one, (tuple, list)):
                yield one
                continue
            for function in one:
                yield getattr(function, "__self__", None)
                for cell in getattr(function, "__closure__", None) or ():
                    with contextlib.suppress(ValueError):  # nothing is in it yet
                        yield cell.cell_contents
                code = getattr(function, "__code__", None)
                for name in getattr(code, "co_names", ()):
                    yield function.__globals__.get(name)

    # As a snapshot pool asks a host

    def borrow(self, parts: Iterable[str]) -> dict[str, Any]:
        """Their states by name, under `EXTRA`; as far as possible without a copy."""
        if EXTRA not in parts:
            return {}
        states = {name: get() for name, (get, _) in self._functions.items()}
        return {EXTRA: taken_apart(states)}

    def ensure_built(self, parts: Iterable[str]) -> bool:
        """Whether all arrays have values yet."""
        return not any(
            is_lazy(leaf) for get, _ in self._functions.values() for leaf in leaf_list(get())
        )

    # Resume

    def mismatches(self, kept: Mapping[str, Any]) -> list[str]:
        """What cannot be meant, in words: names that were changed, arrays of another shape."""
        import difflib  # needed only on the way to an error

        words = []
        gone, new = self.gone(kept), self.new(kept)
        for name in gone if new else ():
            like = difflib.get_close_matches(name, new, 1, 0.0)[0]
            words.append(f"extra {name!r} in the backup, extra {like!r} in this run")
        live = self.borrow([EXTRA])[EXTRA] if self._items else {}
        for name in live.keys() & kept.keys():
            words += [
                f"extra {name!r}: {word}" for word in shapes_that_differ(kept[name], live[name])
            ]
        return words

    def gone(self, kept: Mapping[str, Any]) -> list[str]:
        """Names that a backup has, and this run has not."""
        return [name for name in kept if name not in self._items]

    def new(self, kept: Mapping[str, Any]) -> list[str]:
        """Names that this run has, and a backup has not."""
        return [name for name in self._items if name not in kept]

    def put_back(self, name: str, state: Any) -> None:
        """Put one state back, in the types that it has now; what loading it raises is raised."""
        self._functions[name][1](state)


def _functions_of(name: Any, one: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    if not isinstance(name, str) or not name:
        raise InvalidArgumentError.for_argument("extra", name, "names that are words")
    if callable(getattr(one, "state_dict", None)) and callable(
        getattr(one, "load_state_dict", None)
    ):
        return one.state_dict, lambda state: give_back(state, one)
    access = nnx_access(one)
    if access is not None:
        return access[0], lambda state: give_back(state, one)
    if isinstance(one, (tuple, list)) and len(one) == 2 and all(map(callable, one)):
        get, set_ = one
        return get, lambda state: set_(like_live(state, get()))
    raise InvalidArgumentError.for_argument(
        f"extra[{name!r}]",
        type(one).__name__,
        "an object with state_dict() and load_state_dict(), or a pair of functions",
        hint=f'pass extra={{"{name}": (get, set)}}: get() returns its state as dicts, lists and '
        "arrays, set(state) takes it back.",
    )
