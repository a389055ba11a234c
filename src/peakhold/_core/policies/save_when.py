"""When to write a checkpoint.

Whether a save is due is one state machine for every way to ask (`save_freq="epoch"`, an int,
`Every`, `AtEnd`): it counts whole epochs, batches and seconds of training since the last save that
was due. There is no clock here: whoever calls measures, and leaves out the time between two runs.
What is better than every saved file is decided in `checkpoint.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, final

from peakhold._core.arguments import check_count, check_number
from peakhold.errors import InvalidArgumentError

__all__ = [
    "AtEnd",
    "Every",
    "SaveSchedule",
    "SaveScheduleState",
    "Trigger",
    "trigger_of",
]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Every:
    """When to save: after so many epochs, batches or seconds of training; give exactly one.

    What is left over is saved when training ends, too. The count goes on over epochs and, in a run
    that is resumed, from where the state left it; the time between the two runs does not count.

    Args:
        epochs: Whole epochs between two saves. At least 1.
        batches: Batches between two saves, counted over epochs. At least 1.
        seconds: Seconds of training between two saves, validation included; looked at after each
            batch and each epoch. Above 0.

    Raises:
        InvalidArgumentError: If not exactly one is given, or it cannot be such a number.

    Example:
        >>> from peakhold import Every
        >>> Every(seconds=600)
        Every(epochs=None, batches=None, seconds=600.0)

    Source:
        `save_freq` of `keras.callbacks.ModelCheckpoint`, which knows `"epoch"` and batches.
    """

    epochs: int | None = None
    batches: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        units = ("epochs", "batches", "seconds")
        given = [(name, getattr(self, name)) for name in units if getattr(self, name) is not None]
        hint = "pass Every(epochs=5), Every(batches=1000) or Every(seconds=600)."
        if len(given) != 1:
            name, value = given[1] if given else ("epochs", None)
            raise InvalidArgumentError.for_argument(
                name, value, "exactly one of epochs, batches and seconds", hint=hint
            )
        name, value = given[0]
        if name == "seconds":
            number: float = check_number(name, value, "a finite number above 0", hint=hint)
            if number <= 0:
                raise InvalidArgumentError.for_argument(
                    name, value, "a finite number above 0", hint=hint
                )
        elif isinstance(value, float):  # a count: 2.5 batches mean nothing, 2.0 a slip
            raise InvalidArgumentError.for_argument(name, value, "an int of at least 1", hint=hint)
        else:
            number = check_count(name, value, at_least=1, hint=hint)
        object.__setattr__(self, name, number)


@final
@dataclass(frozen=True, slots=True)
class AtEnd:
    """When to save: once, when training ends, however it ends.

    Example:
        >>> from peakhold import AtEnd
        >>> AtEnd()
        AtEnd()
    """


Trigger: TypeAlias = Every | AtEnd


def trigger_of(save_freq: Any) -> Trigger:
    """What `save_freq` means: `"epoch"`, a number of batches, `Every` or `AtEnd`.

    Raises:
        InvalidArgumentError: If it is none of them.
    """
    if isinstance(save_freq, (Every, AtEnd)):
        return save_freq
    if isinstance(save_freq, str) and save_freq == "epoch":
        return Every(epochs=1)
    expected = "'epoch', an int of at least 1, Every(...) or AtEnd()"
    hint = (
        f"Unrecognized save_freq: {save_freq}. Expected save_freq are 'epoch' or integer values; "
        "save_freq=100 saves after every 100 batches, Every(epochs=5) after every 5 epochs."
    )
    if isinstance(save_freq, (bool, str, float)):
        raise InvalidArgumentError.for_argument("save_freq", save_freq, expected, hint=hint)
    return Every(batches=check_count("save_freq", save_freq, at_least=1, hint=hint))


@final
@dataclass(frozen=True, slots=True)
class SaveScheduleState:
    """Plain numbers: its own JSON. What was trained since the last save that was due."""

    epochs: int = 0
    """Whole epochs."""
    batches: int = 0
    """Batches, counted over epochs."""
    seconds: float = 0.0
    """Seconds of training."""
    last_batch: int | None = None
    """Index of the last batch seen; it outlives its epoch, for the file's name."""
    in_epoch: bool = False
    """Whether that batch belongs to the epoch that is under way."""
    held: bool = False
    """Whether what was counted is saved, though nothing was due: training had ended. The count goes
    on in the next fit, as Keras's does."""


@final
@dataclass(frozen=True, slots=True)
class SaveSchedule:
    """Whether a save is due.

    Each method takes the seconds of training since the call before (of any method), and returns the
    new state with the answer. With `steps_per_execution` a hook stands for several batches: their
    number is the distance between two indices.

    Args:
        trigger: What was asked for.

    Example:
        >>> due = SaveSchedule(Every(batches=3))
        >>> state, answers = due.init(), []
        >>> for batch in range(4):
        ...     state, answer = due.batch_end(state, batch)
        ...     answers.append(answer)
        >>> answers, due.end(state)[1]
        ([False, False, True, False], True)
    """

    trigger: Trigger

    @property
    def needs_batches(self) -> bool:
        """Whether `batch_end` must be called; otherwise it may be, and changes no answer."""
        return isinstance(self.trigger, Every) and self.trigger.epochs is None

    @property
    def at_every_epoch(self) -> bool:
        """Whether each epoch's end is a save, as with `"epoch"`."""
        return isinstance(self.trigger, Every) and self.trigger.epochs == 1

    def most_saves(self, epochs: int | None, steps: int | None) -> int | None:
        """How many saves a run comes to at most, the one at its end included; None if unknown.

        Args:
            epochs: Of the run, or None.
            steps: Batches of an epoch, or None.

        Example:
            >>> SaveSchedule(Every(epochs=2)).most_saves(5, None)
            3
        """
        trigger = self.trigger
        if not isinstance(trigger, Every):
            return 1
        if trigger.epochs is not None:
            return None if epochs is None else math.ceil(epochs / trigger.epochs)
        if trigger.batches is None or epochs is None or steps is None:
            return None
        return math.ceil(epochs * steps / trigger.batches)

    def init(self) -> SaveScheduleState:
        """The state before the first batch."""
        return SaveScheduleState()

    def is_due_at(self, state: SaveScheduleState, batch: int, seconds: float = 0.0) -> bool:
        """Whether `batch_end` would say that a save is due; for those who ask at each batch."""
        trigger = self.trigger
        if not isinstance(trigger, Every):
            return False
        if trigger.seconds is not None:
            return state.seconds + seconds >= trigger.seconds
        return trigger.batches is not None and self._counted(state, batch) >= trigger.batches

    @staticmethod
    def _counted(state: SaveScheduleState, batch: int) -> int:
        """Batches since the last save, with this hook's."""
        last = state.last_batch
        begins = last is None or not state.in_epoch or batch <= last
        return state.batches + (batch + 1 if begins or last is None else batch - last)

    def batch_end(
        self, state: SaveScheduleState, batch: int, seconds: float = 0.0
    ) -> tuple[SaveScheduleState, bool]:
        """Take one hook after a batch into account.

        Args:
            state: The state so far.
            batch: Index of the batch in its epoch, from 0; the last one, if the hook stands for
                several.
            seconds: Seconds of training since the call before.
        """
        after = replace(
            state,
            batches=self._counted(state, batch),
            seconds=state.seconds + seconds,
            last_batch=batch,
            in_epoch=True,
            held=False,
        )
        return self._answer(after)

    def epoch_end(
        self, state: SaveScheduleState, seconds: float = 0.0
    ) -> tuple[SaveScheduleState, bool]:
        """Take the end of a whole epoch into account."""
        trigger = self.trigger
        if isinstance(trigger, Every) and trigger.epochs == 1:  # each is due: nothing is counted
            if state.epochs or state.batches or state.seconds or state.in_epoch or state.held:
                return SaveScheduleState(last_batch=state.last_batch), True
            return state, True
        after = replace(
            state,
            epochs=state.epochs + 1,
            seconds=state.seconds + seconds,
            in_epoch=False,
            held=False,
        )
        return self._answer(after, epoch_ends=True)

    def end(
        self, state: SaveScheduleState, *, in_epoch: bool = False
    ) -> tuple[SaveScheduleState, bool]:
        """The end of training: whether something was trained that no save holds.

        It is saved out of turn: the count goes on from here.

        Args:
            state: The state so far.
            in_epoch: Whether training ends inside an epoch, for those who do not call `batch_end`.
                Whole epochs are all that counts when only epochs were asked for.
        """
        trained = bool(state.epochs or state.batches or in_epoch)
        if isinstance(self.trigger, Every):
            if self.trigger.epochs is not None:
                trained = bool(state.epochs)
            elif self.trigger.batches is not None:
                trained = bool(state.batches)
        trained = trained and not state.held
        return (replace(state, held=True) if trained else state), trained

    def reset(self, state: SaveScheduleState) -> SaveScheduleState:
        """Count anew from here; for a save that nothing here asked for."""
        return replace(state, epochs=0, batches=0, seconds=0.0)

    def _answer(
        self, state: SaveScheduleState, *, epoch_ends: bool = False
    ) -> tuple[SaveScheduleState, bool]:
        trigger, due = self.trigger, False
        if isinstance(trigger, Every):
            if trigger.epochs is not None:
                due = epoch_ends and state.epochs >= trigger.epochs
            elif trigger.batches is not None:
                due = not epoch_ends and state.batches >= trigger.batches
            elif trigger.seconds is not None:
                due = state.seconds >= trigger.seconds
        return (self.reset(state) if due else state), due
