"""Where a run is, and how fast it goes: what every display shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Row", "RunProgress", "Stretch"]


@dataclass
class Stretch:
    """Batches that are gone through: those of an epoch, or of an evaluation inside of it."""

    name: str | None
    """Of an evaluation; None: the training batches."""
    n_batches: int | None
    done: int = 0
    """Batches that are done, those before a resume included."""
    first: tuple[int, float] | None = None
    """At the first look: how many were done, and when. What a first batch compiles is no speed."""

    began: float = 0.0

    def waited(self, seconds: float) -> None:
        """Something else took this long; that is not the time of these batches."""
        if self.first is not None:
            self.first = self.first[0], self.first[1] + seconds

    def seen(self, done: int, now: float) -> None:
        """Note where it is."""
        self.done = done
        if self.first is None:
            self.first = done, now

    def speed(self, now: float) -> float | None:
        """Batches a second; None: not known yet."""
        if self.first is None or self.done <= self.first[0] or now <= self.first[1]:
            return None
        return (self.done - self.first[0]) / (now - self.first[1])

    def seconds_left(self, now: float) -> float | None:
        """Until its last batch; None: not known."""
        speed = self.speed(now)
        if speed is None or self.n_batches is None:
            return None
        return max(0.0, (self.n_batches - self.done) / speed)


@dataclass
class Row:
    """An epoch, or a check, that is over."""

    label: str
    """`Epoch 3/100`, or `Step 500`."""
    metrics: Mapping[str, float]
    best: str | None
    patience_left: int | None
    seconds: float | None = None
    speed: float | None = None
    is_best: bool = False
    """Whether no earlier row had this best."""


@dataclass
class RunProgress:
    """A run, as far as it has come."""

    name: str = ""
    n_epochs: int | None = None
    first_epoch: int = 0
    epoch: int | None = None
    """That which is under way, from 0; None: there are no epochs."""
    parts: list[Stretch] = field(default_factory=lambda: [Stretch(None, None)])
    """What is gone through now, the innermost last."""
    best: str | None = None
    patience_left: int | None = None
    began: float = 0.0
    epoch_began: float = 0.0

    @property
    def part(self) -> Stretch:
        """What is gone through now."""
        return self.parts[-1]

    def label(self) -> str:
        """`Epoch 3/100`; of a run without epochs `Step`.

        Example:
            >>> RunProgress(n_epochs=100, epoch=2).label(), RunProgress().label()
            ('Epoch 3/100', 'Step')
        """
        if self.epoch is None:
            return "Step"
        of = "" if self.n_epochs is None else f"/{self.n_epochs}"
        return f"Epoch {self.epoch + 1}{of}"

    def seconds_left(self, now: float) -> float | None:
        """Until the last epoch is over, if none ends the run before; None: not known."""
        if self.n_epochs is None or self.epoch is None or self.epoch <= self.first_epoch:
            return None
        a_epoch = (self.epoch_began - self.began) / (self.epoch - self.first_epoch)
        return max(0.0, a_epoch * (self.n_epochs - self.epoch) - (now - self.epoch_began))
