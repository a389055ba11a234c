"""The rules: each a small pure function from what the callbacks of one fit can see to advice.

A rule says what was seen, why it costs, and what to write. It takes the mildest form that helps: a
notice is printed with the run's other messages, a warning goes through `warnings`. A false alarm is
a bug. Codes are those of the documentation's table; `silence("E6")` turns one off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, final

from peakhold._core.monitor import Direction, infer_direction

__all__ = ["Advice", "Checkpoint", "Facts", "Plateau", "Stopper", "give", "silence"]


@final
@dataclass(frozen=True, slots=True)
class Advice:
    """One sentence for the user."""

    code: str
    level: Literal["notice", "warning"]
    text: str

    def __str__(self) -> str:
        return f'{self.text} (silence with peakhold.silence("{self.code}"))'


@final
@dataclass(frozen=True, slots=True)
class Stopper:
    """An early stopping of this fit."""

    monitor: str
    mode: str
    patience: int | None
    """In epochs; None if it is not."""
    restores: bool


@final
@dataclass(frozen=True, slots=True)
class Plateau:
    """A plateau rule of this fit."""

    monitor: str
    mode: str
    patience: int | None
    """In epochs; None if it is not."""


@final
@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint of this fit."""

    path: str
    monitor: str
    mode: str
    best_only: bool
    fixed_name: bool


@final
@dataclass(frozen=True, slots=True)
class Facts:
    """What is known before the first batch."""

    epochs: int | None = None
    """Epochs of this fit, or None."""
    validates: bool | None = None
    """Whether validation will run, or None if that cannot be seen."""
    stoppers: tuple[Stopper, ...] = ()
    plateaus: tuple[Plateau, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    paths: tuple[str, ...] = ()
    """Every path that a callback writes, templates included."""

    def monitored(self) -> Iterator[tuple[str, str, str]]:
        """`(class, monitor, mode)` of everything that ranks."""
        for stopper in self.stoppers:
            yield "EarlyStopping", stopper.monitor, stopper.mode
        for plateau in self.plateaus:
            yield "ReduceLROnPlateau", plateau.monitor, plateau.mode
        for checkpoint in self.checkpoints:
            if checkpoint.best_only:
                yield "ModelCheckpoint", checkpoint.monitor, checkpoint.mode


def training_metric(facts: Facts) -> Iterator[Advice]:
    """E2: a training metric is monitored while a validation one exists."""
    if facts.validates:
        for name, monitor, _ in facts.monitored():
            if not monitor.startswith("val_") and infer_direction(monitor) is not None:
                yield Advice(
                    "E2",
                    "warning",
                    f"{name} monitors {monitor!r}, which keeps improving while the model overfits; "
                    f"this fit validates: monitor 'val_{monitor}'.",
                )


def contradiction(facts: Facts) -> Iterator[Advice]:
    """E3: `mode` says the opposite of what the metric's name says."""
    for name, monitor, mode in facts.monitored():
        direction = infer_direction(monitor)
        if mode in {"min", "max"} and direction is not None and direction != Direction(mode):
            yield Advice(
                "E3",
                "warning",
                f"{name} takes the {'smallest' if mode == 'min' else 'largest'} {monitor!r} for "
                f"the best; if that is not meant, write mode='{direction}'.",
            )


def last_weights(facts: Facts) -> Iterator[Advice]:
    """E4: early stopping keeps the last weights, not the best."""
    if any(not stopper.restores for stopper in facts.stoppers):
        best = next((c.path for c in facts.checkpoints if c.best_only), None)
        yield Advice(
            "E4",
            "notice",
            "EarlyStopping will leave the last epoch's weights in the model, not the best: pass "
            "restore_best_weights=True" + (f", or load {best!r} afterwards." if best else "."),
        )


def plateau_too_late(facts: Facts) -> Iterator[Advice]:
    """E6: training stops before the lower rate gets its chance."""
    for plateau in facts.plateaus:
        for stopper in facts.stoppers:
            if plateau.patience is None or stopper.patience is None:
                continue
            if plateau.monitor == stopper.monitor and plateau.patience >= max(stopper.patience, 1):
                yield Advice(
                    "E6",
                    "warning",
                    f"ReduceLROnPlateau(patience={plateau.patience}) waits no shorter than "
                    f"EarlyStopping(patience={stopper.patience}), so the lower rate never gets its "
                    f"chance; write patience={max(plateau.patience * 2, 2)} or more for "
                    "EarlyStopping.",
                )


def useless_patience(facts: Facts) -> Iterator[Advice]:
    """E7: patience 0, or longer than the run."""
    for stopper in facts.stoppers:
        if stopper.patience == 0:
            yield Advice(
                "E7",
                "warning",
                "EarlyStopping(patience=0) acts like patience=1, as in Keras: one epoch without "
                "improvement ends training; write how many you want to sit out.",
            )
        elif (
            facts.epochs is not None
            and stopper.patience is not None
            and stopper.patience >= facts.epochs
        ):
            yield Advice(
                "E7",
                "notice",
                f"EarlyStopping(patience={stopper.patience}) cannot stop a run of {facts.epochs} "
                "epoch(s); write a smaller patience or more epochs.",
            )


def overwritten(facts: Facts) -> Iterator[Advice]:
    """E8: each save replaces the last, or two callbacks write one path."""
    for checkpoint in facts.checkpoints:
        if checkpoint.fixed_name and not checkpoint.best_only and facts.epochs != 1:
            yield Advice(
                "E8",
                "notice",
                f"ModelCheckpoint({checkpoint.path!r}): each save replaces the last; to keep them "
                "all, put {epoch:02d} into the name, to keep the best, write save_best_only=True.",
            )
    for path, n in Counter(facts.paths).items():
        if n > 1:
            yield Advice(
                "E8",
                "warning",
                f"{n} callbacks write {path!r}, each over the other's file; give each its own.",
            )


_RULES = (
    training_metric, contradiction, last_weights, plateau_too_late, useless_patience, overwritten,
)  # fmt: skip
_silenced: set[str] = set()


def silence(*codes: str) -> None:
    """Do not give this advice any more in this process.

    Args:
        codes: Such as `"E6"`; the table is in the documentation under "Advice".
    """
    _silenced.update(codes)


def give(facts: Facts) -> list[Advice]:
    """All advice that applies, without repeats, silenced codes left out."""
    found: Iterable[Advice] = (advice for rule in _RULES for advice in rule(facts))
    return list(dict.fromkeys(advice for advice in found if advice.code not in _silenced))
