"""The border between callbacks and a framework: all that a callback may ask of a model.

Only hosts look into users' objects; everything behind this border sees names and numbers. Two hosts
exist: `LoopHost` (`host/loop.py`), for loops that people write, and `peakhold.keras.KerasHost`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import Any, BinaryIO, NamedTuple, Protocol

from peakhold._core.moments import rate_key
from peakhold._core.monitor import Direction
from peakhold.host.gradients import GradientFacts
from peakhold.host.resume import Resumption

__all__ = [
    "CURVES_WITH_AN_END",
    "CallbackTraits",
    "CannotPlanError",
    "Host",
    "HostFiles",
    "HostGradients",
    "HostLoop",
    "HostMetrics",
    "HostRates",
    "HostState",
    "Parts",
    "PlannedFile",
    "rate_key",
    "to_number",
]

Parts = dict[str, Any]
"""Named parts of a model's state: `weights`, and what else the host lists in `parts()`."""

WEIGHTS = "weights"
OPTIMIZER = "optimizer"
AVERAGE = "average"
"""Moving averages of the weights, if the optimizer keeps them; they are in `OPTIMIZER`, too."""

CURVES_WITH_AN_END = frozenset({"CosineDecay", "PolynomialDecay"})
"""Keras's schedules whose `decay_steps` are the length of the curve, not its slope or period."""


class CallbackTraits(NamedTuple):
    """What a framework's own callback is known for; nothing is known of a user's."""

    silent: bool
    """It neither changes the model nor looks at what other callbacks did."""
    logs_rate: bool
    """It sets the learning rate, and logs it."""


class CannotPlanError(Exception):
    """A file that only the thread that trains can write; the text is the reason."""


class PlannedFile(Protocol):
    """A file that is to be written later, from copies of the model's parts.

    Attributes:
        parts: Names of the parts whose values it needs.
        extra_bytes: Size of what was copied already.
    """

    parts: tuple[str, ...]
    extra_bytes: int

    def write(self, file: BinaryIO, held: Mapping[str, Any]) -> None:
        """Write it, in any thread.

        Args:
            file: As for `Host.write`.
            held: The parts, as they were when the file was planned.
        """


class HostState(Protocol):
    """What a host knows of the state of model and optimizer."""

    def parts(self) -> tuple[str, ...]:
        """Names of the parts that `snapshot` can copy; empty if there is no state to reach."""

    def borrow(self, parts: Iterable[str]) -> Parts:
        """The parts as they are in the model, as far as possible without a copy.

        Trees of NumPy arrays, PyTorch tensors and plain values: to be copied at once, and let go
        before training goes on, which may overwrite them or else would have to copy.
        """

    def ensure_built(self, parts: Iterable[str]) -> bool:
        """Whether all arrays of these parts are there; makes them be, where that is harmless."""

    def named(self, part: str, tree: Any) -> list[tuple[str, Any]]:
        """Names and arrays of a part's tree, for messages; may be looked at in another thread."""

    def snapshot(self, parts: Iterable[str]) -> Parts:
        """Copy parts; later changes of the model change nothing in the copy.

        For callbacks of a user's own; ours share their copies through the run's pool.
        """

    def like_live(self, snapshot: Parts) -> Parts:
        """Copied parts in the types that the live ones have, as the model's own functions do."""

    def restore(self, snapshot: Parts) -> None:
        """Put copied parts back, in the types that the live ones have."""

    def nonfinite(self) -> frozenset[str]:
        """Names of float variables of model and optimizer that hold NaN or infinity now."""

    def nonfinite_in(self, snapshot: Parts) -> frozenset[str]:
        """The same for the weights of a snapshot."""

    def unsynced_weights(self) -> frozenset[str]:
        """Of the weights, what each of several workers changes for itself, by its data.

        Statistics of batch normalization, as far as the framework does not keep them equal; by the
        names that `leaves` gives to `borrow`'s.
        """

    def call_before_gathering(self, work: Callable[[], Any] | None) -> None:
        """Have work done by `write` right before it gathers what lies on several workers.

        That is collective: whoever sets this has all of them take part. None: nothing more.
        """

    def is_sharded(self) -> bool:
        """Whether workers hold pieces of the weights, and `write` gathers them."""

    def enter_save(self) -> None:
        """Another worker reads the state to write it; does what of that all workers must do."""

    def state_bytes(self, *, weights_only: bool = False) -> int | None:
        """Size of model and optimizer in bytes, or None if they are not built yet.

        Args:
            weights_only: Whether that of the weights alone is asked for.
        """

    def named_weights(self) -> Iterable[tuple[str, Any]]:
        """Name and values of each weight as they are now, one by one: arrays of NumPy, numbers."""

    def steps_done(self) -> int | None:
        """Updates of the model so far, in all runs, if the optimizer counts them."""


class HostGradients(Protocol):
    """What a host sees of gradients."""

    def gradient_facts(self) -> GradientFacts | None:
        """What the gradients amount to since `forget_gradients`; None where none can be seen.

        Waits for the device.
        """

    def forget_gradients(self) -> None:
        """Begin anew; at the beginning of a run or an epoch, by whoever will ask for the facts."""

    def gradients(self) -> Iterable[tuple[str, Any]] | None:
        """Names and arrays of the last batch's gradients; None where they cannot be had.

        Nothing is in it before the first batch, or if a loop has thrown them away.
        """

    def check_gradients(self, callback: str, *, arrays: bool) -> None:
        """Raise now if there will be no facts or, with `arrays`, no arrays."""


class HostRates(Protocol):
    """What a host knows of learning rates."""

    def learning_rates(self) -> dict[str, float]:
        """Rate by optimizer name (empty name: the only one); `{}` if there is none to read."""

    def set_learning_rate(self, name: str, value: float) -> None:
        """Set one rate."""

    def check_rates_settable(self, callback: str) -> None:
        """Raise now if `set_learning_rate` would raise later."""

    def at_next_step(self, work: Callable[[], Any]) -> None:
        """Have work done once, right before the optimizer's next step, where that can be seen."""

    def let_program_count(self) -> None:
        """What the program has changed since its run began is put in after a resume, by the run.

        Else what an optimizer of PyTorch holds comes back as it was.
        """

    def settable_groups(self) -> Mapping[str, Any]:
        """Optimizers of PyTorch's kind, whose groups hold their settings, by name; mostly none."""

    def rate_schedule(self) -> tuple[str, int] | None:
        """A curve that the optimizer follows: its name, and the steps from now to its end.

        None without one, or if it has no end. A hint.
        """


class HostLoop(Protocol):
    """What a host knows of the loop that trains."""

    def request_stop(self) -> None:
        """Ask the loop to end at the next point where it looks. Safe in a signal handler."""

    def clear_stop(self) -> None:
        """Forget an earlier loop's request, so that the next one is not stopped by it."""

    def stop_requested(self) -> bool:
        """Whether somebody has asked for the end: here, or on the model itself."""

    def remember_loop(self, frame: FrameType) -> None:
        """A loop that somebody wrote begins; this frame is its own, or `fit`'s."""

    def owns_frame(self, frame: FrameType) -> bool:
        """Whether this frame is the loop that trains (a stale signal handler asks)."""

    def runs_fit(self) -> bool:
        """Whether the framework's own training loop is running, which reads no file of ours.

        Nobody knows what a loop that a user wrote does right after an event.
        """

    def check_workers(self) -> None:
        """Raise now if this loop cannot train with several workers."""

    def validates(self) -> bool | None:
        """Whether validation will run. A hint: never a ground for an error."""

    def first_validation(self) -> int | None:
        """The epoch, from 1, after which validation is due first, in this run or beyond.

        None if it was not asked for, or that cannot be seen. A hint.
        """


class HostFiles(Protocol):
    """How a host writes the model to a file."""

    def file_suffixes(self) -> tuple[str, ...] | None:
        """Suffixes that `write` understands; None: any, the user's own function decides."""

    def write(self, file: BinaryIO, suffix: str, scratch: str) -> None:
        """Write the model to an open file.

        Args:
            file: A real file, opened for writing and reading, at its start.
            suffix: One of `file_suffixes()`.
            scratch: A folder on the same file system, for a writer that insists on a path.
        """

    def plan_file(self, suffix: str) -> PlannedFile:
        """Note what `write` would write now, but for the values of parts.

        Raises:
            CannotPlanError: If this file cannot be written later, from copies.
            HostError: As `check_file`.
        """

    def check_file(self, suffix: str) -> None:
        """Raise now if the state, as far as it is there, has what no such file can hold."""

    def versions(self) -> dict[str, str]:
        """Of Peakhold and of the framework, for what is written."""


class HostMetrics(Protocol):
    """What a host knows of the metrics that training logs."""

    def metric_names(self) -> tuple[str, ...] | None:
        """Names of the training metrics, if they are already known to be complete."""

    def metric_directions(self) -> dict[str, Direction | None]:
        """Direction by training name, as far as the metrics themselves tell."""


class Host(HostState, HostGradients, HostRates, HostLoop, HostFiles, HostMetrics, Protocol):
    """All that a callback may ask of the world of one training run.

    A method that cannot answer returns None where the type says so; what cannot be done raises
    `HostError`. All methods are called on the thread that trains.
    """

    def describe(self) -> str:
        """What is trained, in a few words, for messages."""

    def resumption(self) -> Resumption:
        """What a resume asks beyond this."""

    def say(self, message: str) -> None:
        """Show a message to the person who watches training."""


def to_number(value: Any) -> float | None:
    """One number out of a log value, or None if it is not one.

    Python numbers, NumPy scalars, 0-d tensors of any framework and device, and arrays with a single
    element are numbers. Reading a tensor waits for its device.
    """
    if isinstance(value, float):
        # NumPy's own is made plain, as what is decided and recorded is; a weighted mean stays one.
        return float(value) if hasattr(value, "dtype") else value
    if isinstance(value, (str, bytes, Mapping)) or value is None:
        return None
    if hasattr(value, "detach"):  # torch warns of a number taken from a graph
        value = value.detach()
    shape = tuple(getattr(value, "shape", ()))
    if shape:
        if math.prod(shape) != 1:
            return None
        if not hasattr(value, "reshape"):  # TensorFlow's
            import numpy as np

            value = np.asarray(value)
        value = value.reshape(())
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
