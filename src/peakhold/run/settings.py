"""What a script has changed since a run began counts; all else comes back from its backup.

Problem. The state of a scheduler, or of an optimizer of PyTorch, is settings and counts in one:
`load_state_dict` brings a schedule's old length back with its position, and a script that says
`T_max=40` now goes on with 10.

Solution. Of each plain value there are three: what it was when the run was started first, what it
was when it was saved, and what it is at this start. Where the first and the last differ the script
was changed, and its value counts. Elsewhere what was saved does.

Rules of this file:

1. Only numbers, words and truth values are told apart; arrays come back.
2. A learning rate comes back, too: who cuts and schedules it is the run. What hangs on it does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, final

from peakhold.host.contract import Host

__all__ = ["Settings"]

_PLAIN: Final = (bool, int, float, str, type(None))
_OF_THE_RATE: Final = frozenset(
    {"lr", "initial_lr", "base_lrs", "_last_lr", "_get_lr_called_within_step"}
)
"""What PyTorch keeps of the learning rate."""
_OTHER: Final = "…"
"""Stands for what is not compared."""


@final
class Settings:
    """The settings of all that a run holds besides its weights.

    Args:
        extra: What was given to the run, by name.
        host: Of what is trained; its optimizers may have settings of PyTorch's kind.
    """

    def __init__(self, extra: Mapping[str, Any], host: Host) -> None:
        self._objects: dict[str, Any] = {
            name: one for name, one in extra.items() if hasattr(one, "load_state_dict")
        }
        self._optimizers = dict(host.settable_groups())
        self.now = self.read()
        """What this start says; to be read before anything is put back."""
        self.first: Mapping[str, Any] = self.now
        """What the run's first start said."""

    def read(self) -> dict[str, Any]:
        """All plain values, by the name of what they are of; a tree that a store can save."""
        found: dict[str, Any] = {
            name: _plain(one.state_dict()) for name, one in self._objects.items()
        }
        for name, optimizer in self._optimizers.items():
            groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
            found[_title(name)] = _plain(groups)
        return found

    def apply(self) -> list[str]:
        """Put in what the script has changed, now that all is back; a line for each change."""
        words: list[str] = []
        for name, one in self._objects.items():
            if name in self.first:
                title = f"extra {name!r}"
                changes: list[str] = []
                state = one.state_dict()
                merged = _merged(self.first[name], state, self.now[name], title, changes)
                if changes:
                    one.load_state_dict(merged)
                    words += changes
        for name, optimizer in self._optimizers.items():
            first, now = self.first.get(_title(name)), self.now[_title(name)]
            if first is None or len(first) != len(now):
                continue
            for index, group in enumerate(optimizer.param_groups):
                title = f"the {_title(name)}" + (f", group {index}" if len(now) > 1 else "")
                own = {key: value for key, value in group.items() if key != "params"}
                told = words if index else []  # of the first group the backup's keeper tells
                group.update(_merged(first[index], own, now[index], title, told))
        return words


def _title(name: str) -> str:
    return f"optimizer {name!r}" if name else "optimizer"


def _plain(value: Any) -> Any:
    """A tree of plain values; in the place of all else stands a mark."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return _OTHER


def _merged(first: Any, saved: Any, now: Any, title: str, words: list[str]) -> Any:
    """What is to be used of three versions; changes are added to `words`."""
    if isinstance(first, Mapping) and isinstance(now, Mapping) and isinstance(saved, Mapping):
        if first.keys() != now.keys() and not all(isinstance(key, str) for key in first):
            milestones: Any = type(saved)
            return milestones(_told(first, now, title, words))
        merged = dict(saved)
        for key in _common(first, now, saved):
            of = f"{key} of {title}" if isinstance(key, str) else title
            merged[key] = _merged(first[key], saved[key], now[key], of, words)
        return merged
    lists = (list, tuple)
    are_lists = all(isinstance(one, lists) for one in (first, now, saved))
    if are_lists and len(first) == len(now) == len(saved):
        triples = zip(first, saved, now, strict=True)
        return type(saved)([_merged(a, b, c, title, words) for a, b, c in triples])
    if now == first or _OTHER in (now, first):
        return saved
    return _told(first, now, title, words)


def _told(first: Any, now: Any, title: str, words: list[str]) -> Any:
    words.append(
        f"{title} is {now!r} in this program and was {first!r} in the run that is resumed; "
        f"{now!r} counts from here on."
    )
    return now


def _common(
    first: Mapping[Any, Any], now: Mapping[Any, Any], saved: Mapping[Any, Any]
) -> Iterator[Any]:
    for key in saved:
        if key in first and key in now and key not in _OF_THE_RATE:
            yield key
