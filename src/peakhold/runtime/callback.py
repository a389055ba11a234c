"""The base of every callback, for loops: Keras's hooks and names, no framework.

`Callback` is what users subclass. Ours are `Participating` (`participating.py`): each holds a
participant, and its hooks report to the session of the run. What the session must know of a
callback is asked here, without knowing that class: its `link`, and whether its hooks are unaltered.

The seam. What differs between a loop and `fit` is said by one object, `_peakhold_seam`, which is
defined on `Callback` and on Keras's base only: in `class EarlyStopping(neutral.EarlyStopping,
KerasCallback)` a seam on a concrete class would come before Keras's and shadow it.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable as Function
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from peakhold._core.monitor import Direction
from peakhold._core.observation import Event
from peakhold.errors import NeutralCallbackError
from peakhold.host.contract import Host
from peakhold.host.finding import host_for, list_of, traits_of

if TYPE_CHECKING:
    from peakhold.runtime.link import Link

__all__ = [
    "Callback",
    "Seam",
    "Shown",
    "asked",
    "has_own_hooks",
    "host_of",
    "is_no_op",
    "is_ours",
    "is_unaltered",
    "link_of",
    "no_op",
    "overridden",
    "plain_class",
    "reports",
    "reports_end",
]

Hook = TypeVar("Hook", bound=Function[..., Any])
T = TypeVar("T")

# What belongs to one run, and must not travel with a copied or pickled callback.
_OF_THE_RUN = ("_model", "_peakhold_host")
_SEGMENT_HOOKS = tuple(
    str(event)
    for event in (
        Event.TRAIN_BEGIN, Event.TRAIN_END, Event.EPOCH_BEGIN, Event.EPOCH_END, Event.TEST_BEGIN,
        Event.TEST_END,
    )
)  # fmt: skip


def no_op(hook: Hook) -> Hook:
    """Mark a hook that does nothing: Keras keeps asynchronous dispatch on past it (K-D1)."""
    hook._is_default = True  # type: ignore[attr-defined]
    return hook


def is_no_op(callback: Any, hook: str) -> bool:
    """Whether a hook of this callback does nothing: the mark is ours and Keras's own."""
    return bool(getattr(getattr(callback, hook), "_is_default", False))


def reports(hook: Hook) -> Hook:
    """Mark a hook of ours that reports to the session, and does nothing else."""
    hook._peakhold_reports = True  # type: ignore[attr-defined]
    return hook


def asked(method: Hook) -> Hook:
    """Mark a method that a user's subclass may put its own in the place of: then that is asked."""
    method._peakhold_asked = True  # type: ignore[attr-defined]
    return method


class Shown(Generic[T]):
    """A property that an attribute may take the place of.

    A plain one has a setter, which raises: `self.host = "db"` in a user's subclass would be an
    error of ours. Nothing of ours reads what stands under these names.

    Args:
        get: The function that a plain property would be made of.
    """

    def __init__(self, get: Function[[Any], T]) -> None:
        self._get = get
        self.__doc__ = get.__doc__

    @overload
    def __get__(self, callback: None, owner: type) -> Shown[T]: ...
    @overload
    def __get__(self, callback: Any, owner: type) -> T: ...
    def __get__(self, callback: Any, owner: type) -> Shown[T] | T:
        return self if callback is None else self._get(callback)


class Seam:
    """What differs between a loop and `fit`."""

    file_suffixes: tuple[str, ...] | None = None
    """Suffixes that are known to be writable before any model is; None: the host will say."""

    def comparison(self, direction: Direction) -> Function[[Any, Any], Any]:
        """The function that compares two values of a metric."""
        return operator.lt if direction is Direction.MIN else operator.gt

    def host_for(self, model: Any) -> Host:
        """The model as callbacks see it."""
        return host_for(model)

    def ignored_in(self, cls: type) -> Sequence[str]:
        """What a user's class defines that the framework would call and we do not, as sentences."""
        return ()


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
    _peakhold_host: Host | None = None
    _peakhold_seam: Seam = Seam()
    _peakhold_asks: tuple[str, ...] = ()
    """Names under which a user's subclass is asked, where it has a method of its own."""

    def __init__(self) -> None:
        super().__init__()

    # The seam

    @property
    def model(self) -> Any:
        """What is trained."""
        return self._model

    @Shown
    def host(self) -> Host:
        """The model as callbacks see it."""
        return host_of(self)

    def set_model(self, model: Any) -> None:
        """Called by whoever drives the loop, before training.

        Raises:
            NeutralCallbackError: If `model.fit` drives it.
        """
        framework = list_of(sys._getframe(1).f_locals.get("self"))
        if framework is not None:
            name = type(self).__name__
            raise NeutralCallbackError(
                f"expected a Keras callback, got {type(self).__module__}.{name}, which is made "
                f"for loops.\nHint: {_where_to_import(self, framework)}"
            )
        self._model, self._peakhold_host = model, None

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Called by whoever drives the loop, before training."""
        self.params = params

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


# What the session asks of a callback


def host_of(callback: Any) -> Host:
    """The model that this callback was given, as callbacks see it; made once."""
    host: Host | None = callback._peakhold_host
    if host is None:
        host = callback._peakhold_host = callback._peakhold_seam.host_for(callback._model)
    return host


def link_of(callback: Any) -> Link | None:
    """What a callback of ours holds; None for anybody else's."""
    link: Link | None = getattr(callback, "__dict__", {}).get("_peakhold_link")
    return link


def is_unaltered(callback: Any) -> bool:
    """Whether all hooks of a callback of ours are the session's own, and no user's code answers."""
    return not overridden(callback) and all(
        hasattr(getattr(type(callback), hook), "_peakhold_reports") and hook not in vars(callback)
        for hook in _SEGMENT_HOOKS
    )


def overridden(callback: Any) -> frozenset[str]:
    """Names under which a user's own code is to be asked: methods of a class, or of the object."""
    return frozenset(
        name
        for name in callback._peakhold_asks
        if callable(method := getattr(callback, name)) and not hasattr(method, "_peakhold_asked")
    )


def reports_end(callback: Any) -> bool:
    """Whether the end of training comes to the session from this callback, unaltered."""
    hook = str(Event.TRAIN_END)
    return hasattr(getattr(type(callback), hook), "_peakhold_reports") and hook not in vars(
        callback
    )


def has_own_hooks(callback: Any) -> bool:
    """Whether hooks of this callback are a user's: of a class, or set on the object."""
    if link_of(callback) is not None:
        return not is_unaltered(callback)
    known = is_ours(type(callback)) or traits_of(callback) is not None
    return not known or any(hook in vars(callback) for hook in _SEGMENT_HOOKS)


def is_ours(cls: type) -> bool:
    """Whether a class is Peakhold's own, and not a user's subclass of one."""
    return cls.__module__.startswith("peakhold.")


def plain_class(cls: type) -> type:
    """The class as users know it: the nearest one of Peakhold's own, or else itself."""
    bases = {
        "peakhold.runtime.callback",
        "peakhold.runtime.participating",
        "peakhold.runtime.comparing",
        "peakhold.keras.callback",
        "peakhold.tf_keras.callback",
    }
    return next(
        (c for c in cls.__mro__ if is_ours(c) and c.__module__ not in bases),
        cls,
    )


def _where_to_import(callback: Callback, framework: str) -> str:
    cls = type(callback)
    if is_ours(cls):
        return f"from peakhold.{framework} import {cls.__name__}"
    plain = plain_class(cls)
    base = plain.__name__ if is_ours(plain) else Callback.__name__
    adapt = f"peakhold.{framework}.adapt(callback)"
    return f"derive it from peakhold.{framework}.{base}, or pass {adapt}."
