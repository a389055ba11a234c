"""Moments, decisions and facts as plain JSON: what workers tell one another.

Nothing is pickled. Floats go as JSON's numbers and, where it has none, as Python's words for them
(`NaN`, `Infinity`), which both ends read; they come back bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast, get_args

from peakhold._core.decisions import Decision
from peakhold._core.facts import Fact
from peakhold._core.moments import Moment, Position, Spent
from peakhold._core.observation import Event

__all__ = [
    "decisions_from_json",
    "decisions_to_json",
    "facts_from_json",
    "facts_to_json",
    "moment_from_json",
    "moment_to_json",
]

_KINDS: Final[Mapping[str, type]] = {
    kind.__name__: kind for union in (Decision, Fact) for kind in get_args(union)
}


def _to_json(items: Iterable[Any]) -> list[Any]:
    return [[type(item).__name__, dataclasses.asdict(item)] for item in items]


def _from_json(plain: Any) -> tuple[Any, ...]:
    return tuple(_KINDS[kind](**fields) for kind, fields in plain)


def decisions_to_json(decisions: Iterable[Decision]) -> list[Any]:
    """Decisions, in their order.

    Example:
        >>> from peakhold._core.decisions import Stop
        >>> decisions_from_json(decisions_to_json([Stop("enough")]))
        (Stop(reason='enough', bad=False),)
    """
    return _to_json(items=decisions)


def decisions_from_json(plain: Any) -> tuple[Decision, ...]:
    """What `decisions_to_json` returned."""
    return cast("tuple[Decision, ...]", _from_json(plain))


def facts_to_json(facts: Iterable[Fact]) -> list[Any]:
    """Facts, in their order."""
    return _to_json(facts)


def facts_from_json(plain: Any) -> tuple[Fact, ...]:
    """What `facts_to_json` returned."""
    return cast("tuple[Fact, ...]", _from_json(plain))


def moment_to_json(moment: Moment) -> dict[str, Any]:
    """A moment.

    Example:
        >>> moment = Moment(Event.EPOCH_END, Position(3, None, 400), {"loss": 0.5})
        >>> moment_from_json(moment_to_json(moment)) == moment
        True
    """
    fields = {field.name: getattr(moment, field.name) for field in dataclasses.fields(moment)}
    return {
        **fields,
        "event": str(moment.event),
        "at": list(moment.at),
        "spent": list(moment.spent),
        "metrics": {name: float(value) for name, value in moment.metrics.items()},
        "rates": dict(moment.rates),
        "answers": dict(moment.answers),
    }


def moment_from_json(plain: Mapping[str, Any]) -> Moment:
    """What `moment_to_json` returned."""
    return Moment(
        **{
            **plain,
            "event": Event(plain["event"]),
            "at": Position(*plain["at"]),
            "spent": Spent(*plain["spent"]),
        }
    )
