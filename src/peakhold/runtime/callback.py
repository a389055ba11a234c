"""The base of every callback, for loops: Keras's hooks and names, no framework.

`Callback` is what users subclass. `Participant` is what Peakhold's own callbacks are: their public
hooks report to the session of the run, which runs the handlers of all participants that stand side
by side in an order of its own, so that no result depends on their order in the list.

The seam. What differs between a loop and `fit` is defined on `Callback` only (`set_model`, `host`,
`_comparison`, `_file_suffixes`): in `class EarlyStopping(neutral.EarlyStopping, KerasCallback)` a
seam on a concrete class would come before Keras's and shadow it.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable as Function
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from peakhold._core.monitor import Direction
from peakhold._core.observation import Event
from peakhold.advice import Facts
from peakhold.errors import InvalidArgumentError, NeutralCallbackError
from peakhold.host.contract import Host
from peakhold.host.finding import host_for, is_frameworks_list
from peakhold.runtime.describe import describe
from peakhold.runtime.summary import Best

if TYPE_CHECKING:
    from peakhold.runtime.session import Session
    from peakhold.snapshots.pool import Held

__all__ = ["Callback", "Participant", "is_no_op", "is_ours", "no_op"]

Hook = TypeVar("Hook", bound=Function[..., Any])

# What belongs to one run, and must not travel with a copied or pickled callback.
_OF_THE_RUN = ("_session", "_driver", "_model", "_host", "_continued")


def no_op(hook: Hook) -> Hook:
    """Mark a hook that does nothing: Keras keeps asynchronous dispatch on past it (K-D1)."""
    hook._is_default = True  # type: ignore[attr-defined]
    return hook


def is_no_op(callback: Any, hook: str) -> bool:
    """Whether a hook of this callback does nothing: the mark is ours and Keras's own."""
    return bool(getattr(getattr(callback, hook), "_is_default", False))


class Callback:
    """Base class of callbacks for loops; `peakhold.keras.Callback` is the one for `fit`.

    Override the hooks you need. Epochs and batches count from 0; `logs` holds the metrics by name.

    Attributes:
        params: `epochs`, `steps` and `verbose` of the run, as far as the loop told them.
        model: What is trained.

    Example:
        >>> class Print(Callback):
        ...     def on_epoch_end(self, epoch, logs=None):
        ...         print(epoch, logs["loss"])
        >>> Print().on_epoch_end(0, {"loss": 0.5})
        0 0.5
    """

    params: Mapping[str, Any] | None = None
    _model: Any = None
    _host: Host | None = None
    _file_suffixes: tuple[str, ...] | None = None
    """Suffixes that are known to be writable before any model is; None: the host will say."""

    def __init__(self) -> None:
        super().__init__()

    # The seam

    @property
    def model(self) -> Any:
        """What is trained."""
        return self._model

    @property
    def host(self) -> Host:
        """The model as callbacks see it."""
        if self._host is None:
            self._host = host_for(self.model)
        return self._host

    def set_model(self, model: Any) -> None:
        """Called by whoever drives the loop, before training.

        Raises:
            NeutralCallbackError: If `model.fit` drives it.
        """
        if is_frameworks_list(sys._getframe(1).f_locals.get("self")):
            name = type(self).__name__
            raise NeutralCallbackError(
                f"expected a Keras callback, got {type(self).__module__}.{name}, which is made "
                f"for loops.\nHint: {_where_to_import(self)}"
            )
        self._model, self._host = model, None

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Called by whoever drives the loop, before training."""
        self.params = params

    @staticmethod
    def _comparison(direction: Direction) -> Function[[Any, Any], Any]:
        return operator.lt if direction is Direction.MIN else operator.gt

    # State

    def state_dict(self) -> dict[str, Any]:
        """What this callback needs to go on after an interruption: plain JSON."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned; it counts for the next run.

        Args:
            state: A dict from `state_dict()` of the same class.
        """

    def __getstate__(self) -> dict[str, Any]:
        # A pickled callback must not drag model and data along (K-D5).
        return {key: value for key, value in self.__dict__.items() if key not in _OF_THE_RUN}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._model = None

    # The hooks

    @no_op
    def on_train_begin(self, logs: Any = None) -> None:
        """Called before the first epoch."""

    @no_op
    def on_train_end(self, logs: Any = None) -> None:
        """Called when training has ended, unless an exception ended it."""

    @no_op
    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Called before an epoch."""

    @no_op
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Called after an epoch; `logs` holds its metrics, those of validation with `val_`."""

    @no_op
    def on_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Another name of `on_train_batch_begin`."""

    @no_op
    def on_batch_end(self, batch: int, logs: Any = None) -> None:
        """Another name of `on_train_batch_end`."""

    @no_op
    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Called before a batch."""
        self.on_batch_begin(batch, logs=logs)

    @no_op
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Called after a batch."""
        self.on_batch_end(batch, logs=logs)

    @no_op
    def on_test_begin(self, logs: Any = None) -> None:
        """Called before evaluation."""

    @no_op
    def on_test_end(self, logs: Any = None) -> None:
        """Called after evaluation."""

    @no_op
    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Called before a batch of evaluation."""

    @no_op
    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Called after a batch of evaluation."""

    @no_op
    def on_predict_begin(self, logs: Any = None) -> None:
        """Called before prediction."""

    @no_op
    def on_predict_end(self, logs: Any = None) -> None:
        """Called after prediction."""

    @no_op
    def on_predict_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Called before a batch of prediction."""

    @no_op
    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        """Called after a batch of prediction."""


class Participant(Callback):
    """A callback of ours: its public hooks report to the session, its handlers do the work.

    Handlers, in the order in which a session calls them for participants that stand side by side.
    On train begin: `_resume` (take over what an interrupted run left), `_reset`, `_check`,
    `_begin`. Before the first `_epoch_begin`: `_put_back` (the interrupted run's state). Then
    `_test_begin`, `_test_end`. At the end of an epoch: `_measure` (adds to `logs`), `_act` (changes
    training), `_keep` (copies or writes the state), `_record` (writes down), and `_commit` once all
    of ours have seen the event, between `_before_commit` and `_after_commit` (whoever lends the
    model other weights takes them out meanwhile). On train end: `_keep_last`, `_end`, then
    `_settle` (wait for the writer), and at last `_conclude` (everything of this run is on disk).
    On SIGTERM: `_terminate`, on another thread (finish what is under way, and return by the
    deadline, a time of `time.monotonic()`). `_attached` when a list that drives it is known.
    """

    _session: Session | None = None
    _driver: Any = None
    _unshown: tuple[str, ...] = ()
    """Arguments that may hold what nobody should read."""

    def __repr__(self) -> str:
        return describe(self, self._unshown)

    def _report(self, event: Event, *args: Any) -> None:
        from peakhold.runtime.session import session_of

        session_of(self, event).arrive(self, event, *args)

    def on_train_begin(self, logs: Any = None) -> None:
        """Start afresh, and check everything that can be checked before the first batch."""
        self._report(Event.TRAIN_BEGIN)

    def on_train_end(self, logs: Any = None) -> None:
        """Put everything right."""
        self._report(Event.TRAIN_END, logs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note where we are."""
        self._report(Event.EPOCH_BEGIN, epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Look at the epoch's metrics, and act."""
        self._report(Event.EPOCH_END, epoch, {} if logs is None else logs)

    def on_test_begin(self, logs: Any = None) -> None:
        """Note that validation runs."""
        self._report(Event.TEST_BEGIN)

    def on_test_end(self, logs: Any = None) -> None:
        """Note that validation has run."""
        self.session.test_logs = logs
        self._report(Event.TEST_END)

    # Handlers: what a participant does not override, it does not do.

    def _resume(self) -> None: ...

    def _put_back(self) -> None: ...

    def _before_commit(self) -> None: ...

    def _commit(self, epoch: int, logs: dict[str, Any]) -> None: ...

    def _after_commit(self) -> None: ...

    def _settle(self) -> None: ...

    def _conclude(self) -> None: ...

    def _attached(self, driver: Any) -> None: ...

    def _terminate(self, deadline: float) -> None: ...

    adds_to_files = False
    """Whether it adds to a file that an earlier run may have begun, and knows what it found."""

    # Snapshots that a backup must hold

    def _held(self) -> dict[str, Held]:
        """Snapshots in memory without which this callback could not go on, by name."""
        return {}

    def _load_held(self, held: Mapping[str, Held]) -> None:
        """Take such snapshots back, each with a reference; after `load_state_dict`."""

    memory_budget: int | None = None
    """Bytes of host memory that the callbacks of a run may hold together, or None."""

    def _holds(self) -> Mapping[str, int]:
        """How many copies of each part it will hold at a time, the one being taken included.

        Asked once on train begin, after `_check`; what is returned is booked and allocated. It may
        ask `session.pool.affordable(...)` first, and do without.
        """
        return {}

    def _reset(self) -> None: ...

    def _check(self) -> None: ...

    def _begin(self) -> None: ...

    def _epoch_begin(self, epoch: int) -> None: ...

    def _test_begin(self) -> None: ...

    def _test_end(self) -> None: ...

    def _measure(self, epoch: int, logs: dict[str, Any]) -> None: ...

    def _act(self, epoch: int, logs: dict[str, Any]) -> None: ...

    def _keep(self, epoch: int, logs: dict[str, Any]) -> None: ...

    def _record(self, epoch: int, logs: dict[str, Any]) -> None: ...

    def _keep_last(self, logs: Any) -> None: ...

    def _end(self, logs: Any) -> None: ...

    # Words

    ranks_epochs = False
    """Whether this callback has something to say about the best epoch of a run."""

    def _tell(self, facts: Facts) -> Facts:
        """Add what this callback is set to do to what the advice is made from."""
        return facts

    def _summary(self) -> Best | str | None:
        """What it holds for the best, or a sentence why it holds nothing."""

    @property
    def session(self) -> Session:
        """The run this callback takes part in."""
        from peakhold.runtime.session import session_of

        return session_of(self)

    # State, for participants that have some

    def _header(self) -> dict[str, Any]:
        """What must be equal for a state to belong to this callback."""
        return {"class": _plain_class(type(self)).__name__}

    def _check_header(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        header, given = self._header(), cast("Any", state)
        got = {key: given.get(key) for key in header} if isinstance(given, Mapping) else given
        if got != header:
            raise InvalidArgumentError.for_argument(
                "state",
                got,
                f"the state of {header}",
                hint="load a state into a callback of the same class that monitors the same.",
            )
        return state


def is_ours(cls: type) -> bool:
    """Whether a class is Peakhold's own, and not a user's subclass of one."""
    return cls.__module__.startswith("peakhold.")


def _plain_class(cls: type) -> type:
    """The class as users know it: the nearest one of Peakhold's own."""
    return next(c for c in cls.__mro__ if is_ours(c))


def _where_to_import(callback: Callback) -> str:
    plain = _plain_class(type(callback))
    if plain is type(callback):
        return f"from peakhold.keras import {plain.__name__}"
    return (
        f"derive it from peakhold.keras.{plain.__name__}, or pass peakhold.keras.adapt(callback)."
    )
