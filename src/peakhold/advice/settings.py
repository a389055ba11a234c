"""What the rules look at: the settings of one run, as its callbacks and its host tell them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, final

if TYPE_CHECKING:
    from peakhold._core.monitor import Direction
    from peakhold._core.patience import Patience
    from peakhold.disk.volume import Volume

__all__ = ["Folder", "Plateau", "RunSettings", "Saver", "Schedule", "Stopper"]


@final
@dataclass(frozen=True, slots=True)
class Stopper:
    """One metric of an early stopping of this run."""

    monitor: str
    mode: str
    patience: Patience
    restores: bool
    start: int = 0
    """Epochs that are no checks."""
    alone: bool = True
    """Whether this metric by itself can end training."""


@final
@dataclass(frozen=True, slots=True)
class Plateau:
    """A plateau rule of this run."""

    monitor: str
    mode: str
    patience: Patience


@final
@dataclass(frozen=True, slots=True)
class Saver:
    """What saves checkpoints of this run."""

    path: str
    monitor: str
    mode: str
    best_only: bool
    overwrites: bool
    """Whether several saves go to the same name."""


@final
@dataclass(frozen=True, slots=True)
class Schedule:
    """A learning rate that follows a fixed curve to an end."""

    name: str
    ends_after: int
    """Steps, or epochs, of this run."""
    by_epoch: bool = False


@final
@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that something of this run writes to."""

    who: str
    """The class."""
    path: str
    """The folder, absolute; it need not be there."""
    holds: Literal["weights", "state"] | None = None
    """What one copy is of: weights alone, or optimizer and all. None: small files."""
    copies: int = 1
    """How many there will be at the same time, the one that is being written included."""
    files: int = 1
    """Files of one copy."""


@final
@dataclass(frozen=True, slots=True)
class RunSettings:
    """What is known before the first batch."""

    epochs: int | None = None
    """Epochs of this run, or None."""
    steps: int | None = None
    """Steps of an epoch, or None."""
    validates: bool | None = None
    """Whether validation will run, or None if that cannot be seen."""
    first_validation: int | None = None
    """The epoch, from 1, after which validation data are due first; None without them."""
    names: tuple[str, ...] | None = None
    """Training names of all metrics, or None if they are not known."""
    directions: Mapping[str, Direction | None] = field(default_factory=dict)
    """What the metrics themselves tell, by training name."""
    stoppers: tuple[Stopper, ...] = ()
    plateaus: tuple[Plateau, ...] = ()
    savers: tuple[Saver, ...] = ()
    schedules: tuple[Schedule, ...] = ()
    paths: tuple[str, ...] = ()
    """Every path that a callback writes over, templates included. Not the folder of
    `BackupAndRestore`: it is locked, and others may write beside its files."""

    strangers: tuple[str, int] | None = None
    """The variable of the environment that says how many processes there are, and how many, where
    they are no group that Peakhold knows."""

    resumes: bool = False
    """Whether the run goes on where another was interrupted."""
    folders: tuple[Folder, ...] = ()
    """Every folder that a callback writes to."""
    volumes: Mapping[str, Volume] = field(default_factory=dict)
    """What is known of the file systems under them, by their paths."""
    sizes: Mapping[str, int | None] = field(default_factory=dict)
    """Bytes of one copy, by what it holds; None where the model is not built yet."""
    forgetful: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Classes of callbacks that a resume would lose something of: users', and the framework's."""

    def monitored(self) -> Iterator[tuple[str, str, str]]:
        """`(class, monitor, mode)` of everything that ranks."""
        for stopper in self.stoppers:
            yield "EarlyStopping", stopper.monitor, stopper.mode
        for plateau in self.plateaus:
            yield "ReduceLROnPlateau", plateau.monitor, plateau.mode
        for saver in self.savers:
            if saver.best_only:
                yield "ModelCheckpoint", saver.monitor, saver.mode
