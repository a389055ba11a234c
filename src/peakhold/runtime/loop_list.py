"""What the two lists have in common that drive callbacks in loops of people's own.

`peakhold.CallbackList` and `peakhold.keras.CallbackList` know how the loop counts its epochs, what
else it has to be backed up, and where it is to begin; the session asks them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import Any, Protocol

from peakhold.errors import HostError, InvalidArgumentError
from peakhold.host.extras import Extras
from peakhold.runtime.callback import link_of
from peakhold.runtime.participant import Keeper

__all__ = ["LoopList", "LoopPlace", "check_first_epoch", "check_params", "frame_of_loop"]

_NAMES = ("callbacks", "model", "optimizer", "host", "extra", "first_epoch", "epochs", "verbose")
"""What a list is told; `steps` is as near to other words of Keras's as to a slip."""
_KNOWN = frozenset(
    {"steps", "samples", "batch_size", "metrics", "do_validation", "size", "mode", "step"}
)
"""What Keras has told its callbacks in `params`, and words that are no slip of ours."""


class LoopPlace(Protocol):
    """Where a loop is, of one that can go on inside an epoch: it says when it can be backed up.

    Attributes:
        anew: What to do to begin anew, in words.
    """

    anew: str

    def is_due(self, *, ends: bool) -> bool:
        """Whether an epoch that ends now is to be backed up; it may be put off to a later batch.

        Of several workers all ask, and all get one answer.

        Args:
            ends: Whether training ends with this epoch.
        """

    def state(self) -> dict[str, Any]:
        """The place, as a tree that a store can save; asked for each backup that is made."""

    def make_durable(self) -> None:
        """A backup is about to be written: first all that its place refers to."""

    def take(self, state: Mapping[str, Any], *, is_own: bool) -> None:
        """The run goes on from a backup that was made there.

        Args:
            state: The place.
            is_own: Whether it is this worker's; where their number is another, rank 0's counts, and
                where it was in its data means nothing.
        """

    def watch(self, watches: bool) -> None:
        """Whether all workers agree on a batch now: then it looks at each; in any thread."""

    def agreed(self, wanted: Sequence[Mapping[str, Any]]) -> None:
        """What loops of all workers want (`Proposals.of_loop`) is to be done, by all at one place.

        Args:
            wanted: By those who want something.
        """

    def note_cost(self, seconds: float) -> None:
        """A backup was begun, for which training waited so long."""

    def words(self) -> str:
        """How it goes on, after "goes on with epoch 3"; nothing at an epoch's beginning."""

    def lost(self) -> str:
        """What it could not take of a place that is not its own: a sentence, or nothing."""


class LoopList:
    """A list that a loop of somebody's own drives.

    Attributes:
        callbacks: In their order.
        first_epoch: What the loop calls its first epoch, as it was told: 0, 1, or None.
        extras: What a backup holds besides model and optimizer.
        root: The folder that its callbacks' files are in, if that may be moved between two starts.
        place: Where the loop is, if it can go on inside an epoch (`peakhold.Run`).
        keeps_workers: Whether the coordinator that it was given is still needed when training has
            ended: whoever gave it closes it.
        note_rates: Set by the session where the rates of an epoch are asked for: to be called when
            its beginning has been told to all.
    """

    callbacks: list[Any]
    first_epoch: int | None = None
    extras: Extras
    root: str | None = None
    place: LoopPlace | None = None
    keeps_workers = False
    note_rates: Callable[[], Any] | None = None
    _peakhold_is_shared = False
    """Whether several workers share the run that began last; the session says so."""
    _peakhold_has_begun = False

    @property
    def initial_epoch(self) -> int:
        """The epoch to begin with, as the loop counts: `range(callbacks.initial_epoch, n)`.

        Above the first one if `BackupAndRestore` goes on from an interrupted run.

        Raises:
            HostError: If there is a `BackupAndRestore`, and `on_train_begin` was not called yet.
        """
        for callback in self.callbacks:
            link = link_of(callback)
            if link is not None and isinstance(link.participant, Keeper):
                if not self._peakhold_has_begun:
                    raise HostError(
                        "expected initial_epoch to be asked for after on_train_begin(), got it "
                        "before.\nHint: call callbacks.on_train_begin() first; it reads the backup."
                    )
                return link.participant.initial_epoch
        return self.first_epoch or 0


def check_first_epoch(first_epoch: Any) -> int | None:
    """What the loop calls its first epoch.

    Raises:
        InvalidArgumentError: For anything but 0, 1 and None.
    """
    if first_epoch is None or (first_epoch in (0, 1) and not isinstance(first_epoch, bool)):
        return None if first_epoch is None else int(first_epoch)
    raise InvalidArgumentError.for_argument(
        "first_epoch",
        first_epoch,
        "0 or 1, what the loop calls its first epoch",
        hint="to go on at a later epoch, begin the loop there; first_epoch says how it counts.",
    )


def check_params(params: Mapping[str, Any], more: Iterable[str] = ()) -> None:
    """See that nothing was meant for the list itself, or is lost in `params`.

    Args:
        params: Further arguments, which callbacks see as `params`.
        more: Further names of arguments.

    Raises:
        InvalidArgumentError: For a name that is nearly one of ours, and for a value that has a
            `state_dict`.
    """
    names = (*_NAMES, *more)
    for name, value in params.items():
        if callable(getattr(value, "state_dict", None)):
            raise InvalidArgumentError.for_argument(
                name,
                type(value).__name__,
                "numbers and words that callbacks see as params",
                hint=_where_it_belongs(name, value),
            )
        if name in names or name in _KNOWN:
            continue
        import difflib  # most params are known, and nothing is looked up

        near = difflib.get_close_matches(name, names, 1, 0.75)
        if near:
            raise InvalidArgumentError.for_argument(
                name, value, "arguments that there are", hint=f"did you mean {near[0]}=?"
            )


def _where_it_belongs(name: str, value: Any) -> str:
    if hasattr(value, "param_groups"):
        return f"did you mean optimizer={name}?"
    if hasattr(value, "named_parameters") and hasattr(value, "forward"):
        return f'did you mean model={name}, or extra={{"{name}": {name}}} for the backup alone?'
    return f'pass extra={{"{name}": {name}}}; a backup then holds its state.'


def frame_of_loop(depth: int, owner: Any = None) -> FrameType:
    """The frame of the loop that begins: past what was put ahead of a hook, and past overrides.

    A method named `on_train_begin` is never the loop, but somebody's own, around ours.

    Args:
        depth: As for `sys._getframe`.
        owner: The list; whatever lies between two calls of its hook is no loop, either.
    """
    frame = sys._getframe(depth + 1)
    while frame.f_back is not None and (
        frame.f_globals.get("__name__") == _AHEAD or frame.f_code.co_name == _BEGINS
    ):
        frame = frame.f_back
    outer: FrameType | None = frame
    while outer is not None:
        names = outer.f_code.co_varnames[:1]
        # A loop's own names are not asked for: Python 3.11 would keep what they mean until it ends.
        hook = outer.f_code.co_name == _BEGINS and owner is not None and names
        if hook and outer.f_back is not None and outer.f_locals.get(names[0]) is owner:
            frame = outer.f_back
        outer = outer.f_back
    return frame


_BEGINS = "on_train_begin"
_AHEAD = "peakhold.runtime.driver"
