"""Every error and warning Peakhold raises, in one tree.

    PeakholdError
     ├── InvalidArgumentError (ValueError)      a constructor's argument, before anything runs
     ├── MonitorError (ValueError)              the monitored metric
     │    ├── MonitorNotFoundError              nobody logs it
     │    ├── DirectionUnknownError             larger or smaller is better? pass mode
     │    └── NotAScalarError                   an array where a number belongs
     ├── LearningRateScheduleError (TypeError)  a schedule owns the rate, a callback cannot set it
     ├── HostError (TypeError)                  the model cannot do what a callback needs
     ├── NeutralCallbackError (TypeError)       a loop's callback was given to `fit`
     ├── NonFiniteLossError (RuntimeError)      `TerminateOnNaN(raise_error=True)`
     │    └── NonFiniteGradientError            the loss is finite yet, a gradient is not
     ├── ExtraMissingError (ImportError)        an optional package is not installed
     ├── SaveError (OSError)                    a folder or file cannot be written
     │    └── DiskFullError                     not enough room, seen before or while writing
     ├── StoreError                             a folder of checkpoints
     │    ├── StoreOwnedError (RuntimeError)    another process writes here; it is named
     │    ├── StoreForkedError (RuntimeError)   a forked child used its parent's store
     │    ├── StoreClosedError (RuntimeError)   a call after `close()`
     │    ├── StoreBusyError (RuntimeError)     a signal's handler came in the middle of `save()`
     │    ├── SaveReplacedError (RuntimeError)  a newer save took the place of a waiting one
     │    ├── CheckpointNotFoundError (LookupError)  no such checkpoint, or none at all
     │    ├── CheckpointDamagedError (OSError)  what is on disk is not what was saved
     │    ├── PartMissingError (KeyError)       a part that the checkpoint does not have
     │    └── BackupMismatchError (ValueError)  a backup of another model
     ├── RunOwnedError (RuntimeError)           another process trains in this folder; it is named
     └── WorkersError (RuntimeError)            several workers, one run
          ├── WorkersDifferError (ValueError)   their programs say different things
          ├── WorkerFailedError                 an error on another worker, with its message
          ├── WorkerLostError                   another worker's process is gone
          └── WorkersTimeoutError (TimeoutError)  another worker did not come within the limit

    PeakholdWarning (UserWarning)
     ├── AdviceWarning                          told before it hurts; `peakhold.silence("E6")`
     ├── MonitorWarning                         a metric that is missing, or not finite, once
     ├── RemoteWarning                          a server that did not take what was sent to it, once
     ├── SaveWarning                            a save that failed or was refused; training goes on
     ├── AlertWarning                           an alert that cannot be sent; training goes on
     ├── CheckpointDamagedWarning               a damaged checkpoint was passed over
     └── RecordDamagedWarning                   lines of a run's record that cannot be read

Each is also the builtin that a caller would catch. A message is `expected …, got name=value.`,
then a `Hint:` line where we know what to do; what the text names is an attribute, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

__all__ = [
    "AdviceWarning",
    "AlertWarning",
    "BackupMismatchError",
    "CheckpointDamagedError",
    "CheckpointDamagedWarning",
    "CheckpointNotFoundError",
    "DirectionUnknownError",
    "DiskFullError",
    "ExtraMissingError",
    "HostError",
    "InvalidArgumentError",
    "LearningRateScheduleError",
    "MonitorError",
    "MonitorNotFoundError",
    "MonitorWarning",
    "NeutralCallbackError",
    "NonFiniteGradientError",
    "NonFiniteLossError",
    "NotAScalarError",
    "PartMissingError",
    "PeakholdError",
    "PeakholdWarning",
    "RecordDamagedWarning",
    "RemoteWarning",
    "RunOwnedError",
    "SaveError",
    "SaveReplacedError",
    "SaveWarning",
    "StoreBusyError",
    "StoreClosedError",
    "StoreError",
    "StoreForkedError",
    "StoreOwnedError",
    "WorkerFailedError",
    "WorkerLostError",
    "WorkersDifferError",
    "WorkersError",
    "WorkersTimeoutError",
]


def _with_hint(text: str, hint: str | None) -> str:
    return f"{text}\nHint: {hint}" if hint else text


class PeakholdError(Exception):
    """The root of every error that Peakhold raises."""


class InvalidArgumentError(PeakholdError, ValueError):
    """An argument that cannot mean anything; raised by constructors."""

    argument: str
    """Name of the argument."""
    value: Any
    """What was passed."""

    @classmethod
    def for_argument(
        cls, argument: str, value: Any, expected: str, *, hint: str | None = None
    ) -> InvalidArgumentError:
        """Build the message `expected {expected}, got {argument}={value!r}.`."""
        error = cls(_with_hint(f"expected {expected}, got {argument}={value!r}.", hint))
        error.argument, error.value = argument, value
        return error


class MonitorError(PeakholdError, ValueError):
    """Something is wrong with the monitored metric."""

    monitor: str
    """Name of the monitored metric."""


class MonitorNotFoundError(MonitorError):
    """The monitored metric is logged by nobody."""

    available: tuple[str, ...]
    """The names that are logged."""

    @classmethod
    def for_monitor(
        cls,
        callback: str,
        monitor: str,
        available: Iterable[str],
        *,
        suggestion: str | None = None,
        hint: str | None = None,
    ) -> MonitorNotFoundError:
        """Name the monitor, what there is instead, and the likeliest meaning."""
        names = tuple(available)
        text = (
            f"expected a metric that is logged, got monitor={monitor!r} in {callback}. "
            f"Available metrics are: {', '.join(names) or 'none'}."
        )
        if hint is None:
            hint = (
                f"did you mean {suggestion!r}?"
                if suggestion
                else "monitor one of these, or log it before this callback is called."
            )
        error = cls(_with_hint(text, hint))
        error.monitor, error.available = monitor, names
        return error


class DirectionUnknownError(MonitorError):
    """`mode="auto"` and nothing says whether larger or smaller is better."""

    @classmethod
    def for_monitor(cls, callback: str, monitor: str) -> DirectionUnknownError:
        """Say which two words there are to choose from."""
        error = cls(
            _with_hint(
                "expected mode='min' or mode='max' for a metric of which it is not known whether "
                f"smaller or larger is better, got mode='auto' with monitor={monitor!r} in "
                f"{callback}.",
                "pass mode='max' if larger values are better, mode='min' if smaller ones are.",
            )
        )
        error.monitor = monitor
        return error


class NotAScalarError(MonitorError):
    """A metric that is monitored, or logged in a loop, is not one number."""

    @classmethod
    def for_value(cls, callback: str, monitor: str, value: Any) -> NotAScalarError:
        """Show the value and how such metrics are made to give one number."""
        error = cls(
            _with_hint(
                f"expected one number for monitor={monitor!r} in {callback}, got value={value!r}.",
                "log a single number, such as the mean (for Keras's F1Score and its like: "
                "average='macro').",
            )
        )
        error.monitor = monitor
        return error

    @classmethod
    def for_metric(cls, name: str, value: Any, *, hint: str) -> NotAScalarError:
        """Show what a loop logged, and say what to log instead."""
        error = cls(_with_hint(f"expected one number for a metric, got {name}={value!r}.", hint))
        error.monitor = name
        return error


class LearningRateScheduleError(PeakholdError, TypeError):
    """The learning rate belongs to a schedule and cannot be set."""

    @classmethod
    def for_schedule(cls, callback: str, schedule: Any) -> LearningRateScheduleError:
        """Name who would set the rate, and whose it is; begins with Keras's own words."""
        return cls(
            _with_hint(
                "This optimizer was created with a `LearningRateSchedule` object as its "
                f"`learning_rate`: expected a rate that {callback} can set, got "
                f"learning_rate={type(schedule).__name__}.",
                "pass a float as learning_rate, or leave one of the two out.",
            )
        )


class HostError(PeakholdError, TypeError):
    """The model or optimizer cannot do what a callback asks of it."""

    @classmethod
    def lacks(cls, callback: str, need: str, got: Any, *, hint: str) -> HostError:
        """Say what `callback` needs and what it was given."""
        return cls(_with_hint(f"expected {need} for {callback}, got model={got!r}.", hint))

    @classmethod
    def spread(cls, name: str, shape: tuple[int, ...], processes: int) -> HostError:
        """Say which array no process has as a whole."""
        return cls(
            _with_hint(
                "expected a state that each process holds whole, to copy it or write it to a file, "
                f"got {name}, of shape {shape}, in parts over {processes} processes.",
                "keep it whole on each process (keras.distribution.DataParallel; a replicated "
                "sharding), or use callbacks that copy no weights: EarlyStopping without "
                "restore_best_weights, ReduceLROnPlateau, CSVLogger.",
            )
        )

    @classmethod
    def joint(cls, name: str) -> HostError:
        """Say which variable all workers must read at once."""
        return cls(
            _with_hint(
                "expected a state that each worker reads by itself, to copy it or write it to a "
                f"file, got {name}, which only all workers together can read "
                "(synchronization on_read).",
                "make it one that is not summed up when it is read, or keep it out of the model's "
                "weights.",
            )
        )

    @classmethod
    def other_keras(cls, callback: str, wants: str, model: Any, hint: str) -> HostError:
        """Say that a callback for one Keras was given a model of another."""
        kind = type(model)
        return cls(
            _with_hint(
                f"expected a model of {wants} for {callback}, got {kind.__name__} of "
                f"{kind.__module__.partition('.')[0]}.",
                hint,
            )
        )

    @classmethod
    def unfit(cls) -> HostError:
        """Say that Keras's `fit` cannot train with several workers of TensorFlow."""
        return cls(
            _with_hint(
                "expected a loop of your own under MultiWorkerMirroredStrategy, got model.fit, "
                "which cannot train with it in Keras 3 "
                "(https://github.com/keras-team/keras/issues/20585).",
                "use Keras 2 (pip install 'peakhold[tf_keras]', with import tf_keras, and "
                "from peakhold.tf_keras import ...); or write the loop with strategy.run, and "
                "drive peakhold.keras.CallbackList in it; or use MirroredStrategy in one process; "
                "or KERAS_BACKEND=jax with keras.distribution.",
            )
        )


class NeutralCallbackError(PeakholdError, TypeError):
    """A callback made for loops was given to `model.fit`."""


class NonFiniteLossError(PeakholdError, RuntimeError):
    """The loss is NaN or infinite and the user asked to hear of it as an error."""


class NonFiniteGradientError(NonFiniteLossError):
    """A gradient is NaN or infinite, while the loss is still finite."""

    step: int | None
    """The batch, as the optimizer counts them, from 1; None if nobody counts."""

    @classmethod
    def for_batch(cls, batch: int, step: int | None, loss: float | None) -> NonFiniteGradientError:
        """Name the batch of the epoch and the step of the optimizer."""
        which = "" if step is None else f", step {step} of the optimizer"
        error = cls(
            _with_hint(
                f"NaN or Inf gradient encountered at batch {batch}{which}. Loss value: {loss}. "
                "Terminating training immediately.",
                "clip gradients (Keras's optimizers take global_clipnorm=1.0), or lower the "
                "learning rate.",
            )
        )
        error.step = step
        return error


class ExtraMissingError(PeakholdError, ImportError):
    """An optional package is not installed."""

    package: str
    """Its name."""

    @classmethod
    def for_package(cls, callback: str, package: str, extra: str) -> ExtraMissingError:
        """Say how to install it."""
        error = cls(
            _with_hint(
                f"expected the package {package!r} for {callback}, got none installed.",
                f"pip install 'peakhold[{extra}]'",
            )
        )
        error.package = package
        return error


class SaveError(PeakholdError, OSError):
    """A file or folder that a callback was told to write cannot be written."""

    path: str
    """The file or folder."""

    @classmethod
    def for_path(
        cls, path: str, reason: str, *, expected: str, hint: str | None = None
    ) -> SaveError:
        """Name the path and the reason."""
        error = cls(_with_hint(f"expected {expected}, got path={path!r}: {reason}.", hint))
        error.path = path
        return error

    @classmethod
    def because_of(
        cls, error: OSError, path: str, *, expected: str, hint: str | None = None
    ) -> SaveError:
        """The same, where the system has given the reason."""
        return cls.for_path(path, error.strerror or str(error), expected=expected, hint=hint)


class DiskFullError(SaveError):
    """There is not enough free space for a checkpoint."""

    needed_bytes: int
    """What the checkpoint takes."""
    free_bytes: int
    """What the file system has left for this user."""

    @classmethod
    def for_bytes(cls, path: str, needed_bytes: int, free_bytes: int) -> DiskFullError:
        """Name what is needed and what there is."""
        error = cls(
            _with_hint(
                f"expected {needed_bytes:,} bytes of free space for a checkpoint, "
                f"got path={path!r} with {free_bytes:,} bytes free.",
                "free some space, or write to another disk.",
            )
        )
        error.path, error.needed_bytes, error.free_bytes = path, needed_bytes, free_bytes
        return error


class StoreError(PeakholdError):
    """Something about a folder of checkpoints."""


class StoreOwnedError(StoreError, RuntimeError):
    """Another store, here or in another process, writes to the folder."""

    path: str
    """The folder."""
    owner: str
    """Process, host and time, as the owner wrote them down."""

    @classmethod
    def for_owner(cls, path: str, owner: str) -> StoreOwnedError:
        """Name the owner."""
        error = cls(
            _with_hint(
                f"expected a folder that nothing else is writing to, got path={path!r}, in use by "
                f"{owner}.",
                "close the other store or end that process; to look inside, open Reader(folder).",
            )
        )
        error.path, error.owner = path, owner
        return error


class StoreForkedError(StoreError, RuntimeError):
    """A forked child used the store of its parent."""

    @classmethod
    def for_path(cls, path: str) -> StoreForkedError:
        """Say who may write."""
        return cls(
            _with_hint(
                f"expected the process that opened the store, got a forked child, path={path!r}.",
                "save in the parent; a child that wants to look opens Reader(folder).",
            )
        )


class StoreClosedError(StoreError, RuntimeError):
    """The store was closed before this call."""

    @classmethod
    def for_path(cls, path: str) -> StoreClosedError:
        """Name the folder."""
        return cls(
            _with_hint(
                f"expected an open store, got path={path!r}, which is closed.", "open it again."
            )
        )


class StoreBusyError(StoreError, RuntimeError):
    """A call came in the middle of another that this thread is still in: from a signal's handler.

    The state that is being copied there, and the memory that it is copied to, are half one moment's
    and half another's.
    """

    @classmethod
    def for_path(cls, path: str) -> StoreBusyError:
        """Say what a handler may do."""
        return cls(
            _with_hint(
                f"expected a call while save() is not copying a state, got path={path!r} in the "
                "middle of that (a signal's handler called it).",
                "set a flag in the handler, and save after the step.",
            )
        )


class SaveReplacedError(StoreError, RuntimeError):
    """A newer save took the place of this one before it was written."""

    step: int
    """The step that was not written."""

    @classmethod
    def for_step(cls, step: int) -> SaveReplacedError:
        """Name the step."""
        error = cls(
            _with_hint(
                f"expected the save to be written, got step={step}, whose place a newer save has "
                "taken.",
                "save less often, or pass when_busy='wait'.",
            )
        )
        error.step = step
        return error


class CheckpointNotFoundError(StoreError, LookupError):
    """There is no such checkpoint."""

    path: str
    """The folder that was searched."""
    available: tuple[int, ...]
    """The newest steps there are, at most five."""

    @classmethod
    def for_step(
        cls, path: str, wanted: object, available: Iterable[int]
    ) -> CheckpointNotFoundError:
        """Name what was asked for and the nearest of what there is."""
        steps = tuple(available)
        text = f"expected a checkpoint in {path!r}, got which={wanted!r}"
        if not steps:
            error = cls(_with_hint(f"{text}, and the folder holds none.", "save one first."))
        else:
            listed = ", ".join(map(str, steps))
            error = cls(_with_hint(f"{text}.", f"pass one of the steps there are: {listed}."))
        error.path, error.available = path, steps
        return error


class CheckpointDamagedError(StoreError, OSError):
    """A checkpoint on disk is not what was saved: loading it would be a lie."""

    path: str
    """The checkpoint's folder."""
    file: str | None
    """The damaged file's name inside it, if one file is to blame."""
    tensor: str | None
    """The damaged tensor's name, if one tensor is to blame."""
    reason: str
    """What was found."""

    @classmethod
    def for_path(
        cls, path: str, reason: str, *, file: str | None = None, tensor: str | None = None
    ) -> CheckpointDamagedError:
        """Name the checkpoint, the file, the tensor and what is wrong."""
        where = f", file={file!r}" if file else ""
        where += f", tensor={tensor!r}" if tensor else ""
        error = cls(
            _with_hint(
                f"expected an undamaged checkpoint, got path={path!r}{where}: {reason}.",
                "load('latest') skips damaged checkpoints; verify() lists all that is wrong.",
            )
        )
        error.path, error.file, error.tensor, error.reason = path, file, tensor, reason
        return error


class PartMissingError(StoreError, KeyError):
    """A part was asked for that the checkpoint does not have."""

    path: str
    """The checkpoint's folder."""
    missing: tuple[str, ...]
    """The parts that are not there."""
    available: tuple[str, ...]
    """The parts that are."""

    __str__ = Exception.__str__  # KeyError would show the repr of the text

    @classmethod
    def for_parts(
        cls, path: str, missing: Iterable[str], available: Iterable[str]
    ) -> PartMissingError:
        """Name the missing parts and those there are."""
        gone, there = tuple(missing), tuple(available)
        error = cls(
            _with_hint(
                f"expected the parts {', '.join(map(repr, gone))}, got path={path!r} "
                f"with {', '.join(map(repr, there)) or 'no part at all'}.",
                f"to load what there is, pass parts={list(there)!r}.",
            )
        )
        error.path, error.missing, error.available = path, gone, there
        return error


class BackupMismatchError(StoreError, ValueError):
    """A backup is of another model than the one that is trained, or of another `extra`."""

    path: str
    """The folder of the backup."""
    mismatches: tuple[str, ...]
    """What does not fit, in words, in the order of the model."""

    @classmethod
    def for_tensors(cls, path: str, mismatches: Iterable[str]) -> BackupMismatchError:
        """Name the first tensors that do not fit, on both sides."""
        words = tuple(mismatches)
        more = f"; and {len(words) - 3} more" if len(words) > 3 else ""
        error = cls(
            _with_hint(
                f"expected a backup of this model, got backup_dir={path!r}: "
                f"{'; '.join(words[:3])}{more}.",
                "build the model as it was, or pass another backup_dir to start afresh.",
            )
        )
        error.path, error.mismatches = path, words
        return error


class RunOwnedError(PeakholdError, RuntimeError):
    """Another process, or another run of this one, writes to the folder of a run."""

    path: str
    """The folder."""
    owner: str
    """Process, host and time, as the owner wrote them down."""

    @classmethod
    def for_owner(cls, path: str, owner: str) -> RunOwnedError:
        """Name the owner."""
        error = cls(
            _with_hint(
                f"expected a folder that no other run is written to, got path={path!r}, in use by "
                f"{owner}.",
                "end that process, or pass another folder; to look on needs neither.",
            )
        )
        error.path, error.owner = path, owner
        return error


class PeakholdWarning(UserWarning):
    """The root of every warning that Peakhold gives."""


class AdviceWarning(PeakholdWarning):
    """Settings that work against each other; silence one with `peakhold.silence(code)`."""


class MonitorWarning(PeakholdWarning):
    """A monitored metric that is missing or not finite."""


class RemoteWarning(PeakholdWarning):
    """A server that metrics are sent to cannot be reached, or refused; training went on."""


class SaveWarning(PeakholdWarning):
    """A save that failed or was refused; training went on."""


class AlertWarning(PeakholdWarning):
    """An alert that was not delivered, or whose condition failed; training went on."""


class CheckpointDamagedWarning(PeakholdWarning):
    """A damaged checkpoint was passed over and an older one is used."""


class RecordDamagedWarning(PeakholdWarning):
    """Lines of a run's record cannot be read, and were passed over."""


class WorkersError(PeakholdError, RuntimeError):
    """Several workers of one run do not come together."""

    rank: int | None
    """Which worker it is about; None if it cannot be told."""

    @classmethod
    def of_rank(cls, rank: int | None, text: str, *, hint: str | None = None) -> Self:
        """The message, and which worker it is about."""
        error = cls(_with_hint(text, hint))
        error.rank = rank
        return error


class WorkersDifferError(WorkersError, ValueError):
    """The programs of the workers say different things of one run; raised on all of them."""


class WorkerFailedError(WorkersError):
    """Another worker ended with an error; the message is that error's."""


class WorkerLostError(WorkersError):
    """The process of another worker is gone, or has left the run."""


class WorkersTimeoutError(WorkersError, TimeoutError):
    """Another worker did not come within the limit."""
