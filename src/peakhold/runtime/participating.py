"""The base of our callbacks: hooks that report, and attributes that are views.

A callback that people see has its arguments, its docstring and its public attributes; what it does
is its participant's. People derive from it and take any name; all that is ours lies under
`_peakhold_link`.
"""

from __future__ import annotations

from collections.abc import Callable as Function
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Generic, TypeVar, cast, overload

from peakhold._core.observation import Event
from peakhold._core.states import UNUSABLE
from peakhold.errors import InvalidArgumentError, PeakholdError
from peakhold.runtime import dispatch
from peakhold.runtime.callback import Callback, Shown, no_op, plain_class
from peakhold.runtime.describe import describe
from peakhold.runtime.link import Link
from peakhold.runtime.participant import Participant, Sparse
from peakhold.runtime.session import Session, session_of

__all__ = ["BatchHooks", "Participating", "Setting", "View"]

T = TypeVar("T")


class _Forwarded(Generic[T]):
    """A public attribute of a callback that lies with its participant."""

    def __init__(self, doc: str = "") -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, callback: None, owner: type) -> _Forwarded[T]: ...
    @overload
    def __get__(self, callback: Any, owner: type) -> T: ...
    def __get__(self, callback: Any, owner: type) -> _Forwarded[T] | T:
        if callback is None:
            return self
        try:
            participant = callback._peakhold_link.participant
        except AttributeError:
            raise AttributeError(f"{self._name!r} is not there before __init__") from None
        return self._get(participant)

    def __set__(self, callback: Any, value: T) -> None:
        self._set(callback._peakhold_link.participant, value)

    def _get(self, participant: Any) -> T:
        raise NotImplementedError

    def _set(self, participant: Any, value: T) -> None:
        raise NotImplementedError


class Setting(_Forwarded[T]):
    """An argument, as an attribute: it shows and sets the participant's of the same name.

    Set in mid-run it counts from the next moment on.
    """

    def _get(self, participant: Any) -> T:
        return cast("T", getattr(participant, self._name))

    def _set(self, participant: Any, value: T) -> None:
        setattr(participant, self._name, value)


class View(_Forwarded[T]):
    """A field of the participant's frozen state: what is settled, or will be.

    Reading waits for what is not known yet, and changes nothing.
    """

    def _get(self, participant: Any) -> T:
        return cast("T", getattr(participant.shown_state(), self._name))

    def _set(self, participant: Any, value: T) -> None:
        participant.settle_now()
        participant.set_state(replace(participant.state, **{self._name: value}))


class Participating(Callback):
    """A callback of ours. Its hooks report to the session, which asks its participant.

    Args:
        participant: What decides, acts or records.
    """

    _peakhold_link: Link
    _peakhold_unshown: tuple[str, ...] = ()
    """Arguments that may hold what nobody should read."""

    def __init__(self, participant: Participant) -> None:
        super().__init__()
        participant.name = type(self).__name__
        participant.kind = plain_class(type(self)).__name__
        self._peakhold_link = Link(participant)

    def __repr__(self) -> str:
        return describe(self, self._peakhold_unshown)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {**state, "_peakhold_link": self._peakhold_link.copied()}

    @Shown
    def session(self) -> Session:
        """The run this callback takes part in."""
        return session_of(self)

    # State

    def state_dict(self) -> dict[str, Any]:
        """What this callback needs to go on after an interruption: plain JSON."""
        return self._peakhold_link.participant.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned; it counts for the next run.

        Args:
            state: A dict from `state_dict()` of the same class.

        Raises:
            InvalidArgumentError: If the state is of another class or another monitor, or is not as
                `state_dict` returns it.
        """
        participant = self._peakhold_link.participant
        try:
            participant.load_state_dict(state)
        except PeakholdError:
            raise
        except UNUSABLE as error:
            raise InvalidArgumentError.for_argument(
                "state",
                f"{type(error).__name__}: {error}",
                f"what state_dict() of {participant.name} returned",
                hint="it may be of another version, or was changed; train without it.",
            ) from error

    # The hooks: they report, and nothing else

    on_train_begin = dispatch.on_train_begin
    on_train_end = dispatch.on_train_end
    on_epoch_begin = dispatch.on_epoch_begin
    on_epoch_end = dispatch.on_epoch_end
    on_test_begin = dispatch.on_test_begin
    on_test_end = dispatch.on_test_end


@no_op
def _idle(batch: int, logs: Any = None) -> None: ...


class BatchHooks(Participating):
    """A callback that may look at batches: a no-op in Keras's sense unless it does (K-D1).

    Its participant says with `listens(event)` whether it does; it may change its mind in mid-run.
    """

    def _peakhold_batch_hook(self, event: Event) -> Function[..., None]:
        participant: Any = self._peakhold_link.participant
        if not participant.listens(event) or participant.is_idle:
            return _idle
        sparse = event is Event.TRAIN_BATCH_END and isinstance(participant, Sparse)

        def hook(batch: int, logs: Any = None) -> None:
            if sparse:  # a batch that nobody will look at is worth no moment
                participant.count(batch)
            if not sparse or participant.is_due():
                dispatch.report(self, event, batch, logs)

        return hook

    @property
    def on_train_batch_begin(self) -> Any:
        """Called before a batch; a no-op in Keras's sense unless this callback looks at it."""
        return self._peakhold_batch_hook(Event.TRAIN_BATCH_BEGIN)

    @property
    def on_train_batch_end(self) -> Any:
        """Called after a batch; a no-op in Keras's sense unless this callback looks at it."""
        return self._peakhold_batch_hook(Event.TRAIN_BATCH_END)
