"""What a tracker shows of a run's events: a row for each epoch, what was decided, and the best.

Rules of this file:

1. An epoch, or a check, is a row; epochs count as in the record.
2. The best is what a policy has said is the best (`Remember`, or a `Save` that was ranked), and is
   that no longer if it comes to nothing (`Failed`, `NotFinite`). As for `run.best`, files come
   before weights in memory.
3. What is decided between two epochs stands in the row that follows, or in what is told at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

from peakhold._core.decisions import Continue, Remember, Restore, Save, SetLearningRate, Skip, Stop
from peakhold._core.facts import Failed, Found, NotFinite
from peakhold._core.observation import Event

__all__ = ["BestEpoch", "EpochRow", "RowMaker"]

_WORDS: Final = {
    kind.__name__: kind.word for kind in (Stop, SetLearningRate, Remember, Save, Restore, Skip)
}
_QUIET: Final = Continue.__name__
_CAME_TO_NOTHING: Final = {Failed.__name__, NotFinite.__name__}
_MOST_CANDIDATES: Final = 8
"""Of one participant; a save is known to have failed an epoch or two later."""


@final
@dataclass(frozen=True, slots=True)
class BestEpoch:
    """The best epoch so far."""

    epoch: int
    metrics: Mapping[str, float]
    """All of that epoch."""

    def flat(self) -> dict[str, float]:
        """As trackers name it: `best/epoch`, `best/val_loss`, …."""
        return {
            "best/epoch": self.epoch,
            **{f"best/{name}": value for name, value in self.metrics.items()},
        }


@final
@dataclass(frozen=True, slots=True)
class EpochRow:
    """One epoch, or one check, as a tracker gets it."""

    epoch: int
    metrics: Mapping[str, float]
    """What was logged, `learning_rate` (of several optimizers, `learning_rate/` and the name), and
    `updates`: of the model so far."""
    decided: str = ""
    """What was decided since the row before, and why; empty: nothing."""
    best: BestEpoch | None = None
    """The best epoch up to here."""


@final
@dataclass(slots=True)
class RowMaker:
    """Takes a run's events one by one.

    Example:
        >>> rows = RowMaker()
        >>> event = {"kind": "moment", "event": "on_epoch_end", "epoch": 0, "step": 4}
        >>> stops = {"decision": "Stop", "reason": "enough", "bad": False}
        >>> row = rows.take({**event, "metrics": {"loss": 0.5}, "decisions": {"mine": [stops]}})
        >>> row.metrics, row.decided
        ({'loss': 0.5, 'updates': 4}, 'mine: stop: enough')
    """

    decided: list[str] = field(default_factory=list)
    """Since the row before."""
    lines: list[str] = field(default_factory=list)
    """All that was decided, a line for each row."""
    stopped: str = ""
    """Why training was stopped, and by whom."""
    _files: dict[str, list[tuple[int, BestEpoch]]] = field(default_factory=dict)
    """Of each who saves, in the order in which they ranked: the tickets, and what they are for."""
    _weights: dict[str, list[tuple[int, BestEpoch]]] = field(default_factory=dict)
    _failed: dict[tuple[str, int | None], BestEpoch] = field(default_factory=dict)
    """What a save was for that came to nothing: it may be tried once more."""

    @property
    def best(self) -> BestEpoch | None:
        """The best so far."""
        for candidates in (*self._files.values(), *self._weights.values()):
            if candidates:
                return candidates[-1][1]
        return None

    def take(self, event: Mapping[str, Any]) -> EpochRow | None:
        """Take an event; what a tracker is to be told of it.

        Args:
            event: As in `events.jsonl`.
        """
        if event.get("kind") != "moment" or event.get("rank"):
            return None
        epoch = int(event["epoch"])
        for name, facts in event.get("facts", {}).items():
            self._learn(name, facts)
        metrics = dict(event.get("metrics", {}))
        for name, decisions in event.get("decisions", {}).items():
            self._note(name, decisions, BestEpoch(epoch, metrics))
        if event["event"] != str(Event.EPOCH_END):
            return None
        rates = event.get("rates", {})
        row = EpochRow(
            epoch,
            {
                **metrics,
                **{
                    f"learning_rate/{name}" if name else "learning_rate": rate
                    for name, rate in rates.items()
                },
                "updates": event["step"],
            },
            "; ".join(self.decided),
            self.best,
        )
        if row.decided:
            self.lines.append(f"epoch {epoch + 1}: {row.decided}")
        self.decided.clear()
        return row

    def _note(self, name: str, decisions: Iterable[Mapping[str, Any]], this: BestEpoch) -> None:
        for one in decisions:
            kind = one["decision"]
            if kind == Remember.__name__:
                self._rank(self._weights, name, one["ticket"], this)
            elif kind == Save.__name__ and one["value"] is not None:
                once_more = self._failed.pop((name, one["retry"]), this)
                self._rank(self._files, name, one["ticket"], once_more)
            if kind == Stop.__name__:
                self.stopped = f"{one['reason']} ({name})"
            if kind == _QUIET or (kind == Skip.__name__ and not one["bad"]):
                continue
            self.decided.append(f"{name}: {_WORDS.get(kind, kind)}: {one['reason']}")

    def _rank(
        self,
        candidates: dict[str, list[tuple[int, BestEpoch]]],
        name: str,
        ticket: int,
        this: BestEpoch,
    ) -> None:
        known = candidates.setdefault(name, [])
        known.append((ticket, this))
        del known[:-_MOST_CANDIDATES]

    def _learn(self, name: str, facts: Iterable[Mapping[str, Any]]) -> None:
        for candidates in (self._files, self._weights):
            known = candidates.get(name, [])
            for one in facts:
                if one["fact"] in _CAME_TO_NOTHING:
                    ticket = one["ticket"]
                    self._failed.update({(name, t): best for t, best in known if t == ticket})
                    known[:] = [pair for pair in known if pair[0] != ticket]
                elif one["fact"] == Found.__name__:
                    last = -1 if one["value"] is None else one["epoch"]
                    known[:] = [pair for pair in known if last is None or pair[1].epoch <= last]
