"""Save the model, or only its weights, to a file.

Rules of this file:

1. The policy decides, the store commits, and only the committed file moves `best`.
2. What is about to be written is checked: the loss (computed before the last update) and every
   float variable. Nothing that is not finite is written over anything.
3. What stood under the name before this run is given a second name first, unless this run goes on
   from it. What Peakhold did not write is never lost.
4. A save that fails is said aloud and changes nothing; training goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from peakhold._core.arguments import check_count, check_number, check_text, check_verbose
from peakhold._core.decisions import Skip
from peakhold._core.file_template import BUILT_IN, FileTemplate, TemplateError
from peakhold._core.observation import Observation, is_finite
from peakhold._core.policies.save_when import (
    EveryBatches,
    EveryBatchesState,
    SaveBest,
    SaveBestState,
)
from peakhold.advice import Checkpoint, Facts
from peakhold.callbacks.checkpoint_folder import CheckpointFolder, static_folder
from peakhold.callbacks.monitored import Monitored
from peakhold.errors import (
    HostError,
    InvalidArgumentError,
    MonitorNotFoundError,
    MonitorWarning,
    SaveError,
    SaveWarning,
)
from peakhold.host import rate_key, to_number
from peakhold.runtime.callback import no_op
from peakhold.runtime.summary import Best
from peakhold.store.sidecar import Entry

__all__ = ["ModelCheckpoint"]


class ModelCheckpoint(Monitored):
    """Save the model, or only its weights, at some frequency, or when it is the best so far.

    A file under its final name is whole at every moment: it is written beside it, flushed, renamed,
    and the folder flushed. A small JSON file beside it (`<name>.peakhold.json`) holds for each file
    its checksum, metrics and epoch.

    A fit that begins at epoch 0 starts afresh: a file that an earlier run left under the name is
    first kept as `<name>.previous.<suffix>` (the better one, if there is one already). A fit that
    begins later (`initial_epoch > 0`) goes on from the best file that the sidecar proves.

    Args:
        filepath: The file, a string or path. May hold `{epoch}` and `{batch}` (from 1), any logged
            metric, `{run_id}`, `{timestamp}` (UTC) and `{worker}`, each with a format
            (`{epoch:02d}`). In Keras: `.keras` or `.h5` for models, `.weights.h5` for weights; in
            other loops `.safetensors`, or any suffix with `LoopHost(save=...)`.
        monitor: Name of the metric that ranks. Unused unless `save_best_only`. Defaults to
            `"val_loss"`.
        verbose: 0 is silent, 1 says each save. Defaults to `0`.
        save_best_only: Whether to save only what is better than every saved file. Defaults to
            `False`.
        save_weights_only: Whether to save weights (with the optimizer's state, as Keras does)
            instead of the model. Defaults to `False`.
        mode: `"min"`, `"max"` or `"auto"`. Defaults to `"auto"`.
        save_freq: `"epoch"`, or a number of batches, counted over epochs; then the last state is
            saved at the end, too. Defaults to `"epoch"`.
        initial_value_threshold: Value to beat before anything is saved. Defaults to `None`.
        check_finite: Whether to refuse states with NaN or infinity. Variables that hold them from
            the start are exempt. Defaults to `True`.
        on_save_error: `"warn"`: say it and go on; `"raise"`: end training. Defaults to `"warn"`.

    Attributes:
        best: Value of the best committed file, or the threshold; None before.
        best_path: Its path; None before.
        latest_path: Path of the newest committed file; None before.

    Raises:
        InvalidArgumentError: For a folder, a wrong suffix, `save_freq=0`, a malformed template, ….
        SaveError: On train begin, if the folder cannot be made or written, or is full.

    Example:
        >>> import numpy as np, tempfile
        >>> from peakhold import CallbackList, LoopHost, ModelCheckpoint
        >>> params = {"w": np.zeros(3)}
        >>> saver = ModelCheckpoint(
        ...     f"{tempfile.mkdtemp()}/best.safetensors", "loss", save_best_only=True
        ... )
        >>> callbacks = CallbackList(
        ...     saver, host=LoopHost(get_state=lambda: params, set_state=params.update), verbose=0
        ... )
        >>> callbacks.on_train_begin()
        >>> for epoch, loss in enumerate((0.5, 0.4, 0.6)):
        ...     callbacks.on_epoch_begin(epoch)
        ...     callbacks.on_epoch_end(epoch, {"loss": loss})
        >>> callbacks.on_train_end()
        >>> saver.best, saver.best_path.endswith("best.safetensors")
        (0.4, True)

    Source:
        `keras.callbacks.ModelCheckpoint` of Keras 3.15; K-M1 to K-M10.
    """

    ranks_epochs = True

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
        *,
        check_finite: bool = True,
        on_save_error: str = "warn",
    ) -> None:
        super().__init__(monitor, mode)
        self.save_best_only = bool(save_best_only)
        self.save_weights_only = bool(save_weights_only)
        self.filepath = self._check_filepath(filepath)
        self.verbose = check_verbose(verbose)
        self.save_freq = _check_save_freq(save_freq)
        self.initial_value_threshold = (
            None
            if initial_value_threshold is None
            else check_number("initial_value_threshold", initial_value_threshold, infinite=True)
        )
        self.check_finite = bool(check_finite)
        if on_save_error not in {"warn", "raise"}:
            raise InvalidArgumentError.for_argument(
                "on_save_error", on_save_error, "'warn' or 'raise'", hint="pass 'warn' to go on."
            )
        self.on_save_error = on_save_error
        self._state = SaveBestState(best=self.initial_value_threshold)
        self._batches = EveryBatchesState()
        self._loaded = False
        self._forget_run()

    def _forget_run(self) -> None:
        """What belongs to one run, at its beginning."""
        self.best_path: str | None = None
        self.latest_path: str | None = None
        self.best_epoch: int | None = None
        self._due = False
        self._resumes = False
        self._missing: MonitorNotFoundError | None = None
        self._exempt: frozenset[str] = frozenset()
        self._files: CheckpointFolder | None = None
        self._why_not = "no epoch ended"

    # Arguments

    @property
    def _template(self) -> FileTemplate:
        return FileTemplate.parse(self.filepath)

    @property
    def _suffix(self) -> str:
        name = os.path.basename(self.filepath)
        if name.endswith(".weights.h5"):
            return ".weights.h5"
        return os.path.splitext(name)[1]

    def _check_filepath(self, filepath: Any) -> str:
        path = os.fspath(filepath) if isinstance(filepath, (str, os.PathLike)) else filepath
        text = check_text(
            "filepath", path, "the path of a file", hint="pass a path such as 'best.keras'."
        )
        if "://" in text:
            raise InvalidArgumentError.for_argument(
                "filepath", text, "a path on this machine", hint="save locally, then copy."
            )
        if os.path.isdir(text):
            raise InvalidArgumentError.for_argument(
                "filepath",
                text,
                "a non-directory filepath",
                hint=f"pass a file in it: {os.path.join(text, 'best.keras')!r}.",
            )
        try:
            FileTemplate.parse(text)
        except TemplateError as error:
            raise InvalidArgumentError.for_argument(
                "filepath",
                text,
                f"names of metrics between braces ({error})",
                hint="write {epoch:02d} or {val_loss:.4f}; a literal brace is written twice.",
            ) from error
        if self._file_suffixes is not None:
            wanted = [
                s for s in self._file_suffixes if (s == ".weights.h5") == self.save_weights_only
            ]
            weights = text.endswith(".weights.h5")
            if not text.endswith(tuple(wanted)) or weights != self.save_weights_only:
                raise InvalidArgumentError.for_argument(
                    "filepath",
                    text,
                    f"a name that ends in {' or '.join(wanted)} for "
                    f"save_weights_only={self.save_weights_only}",
                    hint="weights alone need '.weights.h5' and save_weights_only=True; "
                    "whole models '.keras' (or the legacy '.h5').",
                )
        return text

    # Views of the state

    @property
    def best(self) -> float | None:
        """Value of the best committed file, or the threshold."""
        return self._state.best

    @best.setter
    def best(self, value: float | None) -> None:
        self._state = SaveBestState(best=value)

    @property
    def _ranks(self) -> bool:
        return self.save_best_only

    @property
    def _policy(self) -> SaveBest:
        return SaveBest(self._criterion, self.initial_value_threshold)

    # Handlers

    def _reset(self) -> None:
        super()._reset()
        self._forget_run()
        if not self._loaded:
            self._state = SaveBestState(best=self.initial_value_threshold)
            self._batches = EveryBatchesState()

    def _check(self) -> None:
        super()._check()
        suffixes = self.host.file_suffixes()
        if suffixes is not None and not self.filepath.endswith(suffixes):
            raise HostError.lacks(
                f"{self._name}({self.filepath!r})",
                f"a model that can be written as {self._suffix}",
                self.host.describe(),
                hint=self._hint_for_suffix(suffixes),
            )
        self._check_placeholders()
        self._check_folder()

    def _hint_for_suffix(self, suffixes: tuple[str, ...]) -> str:
        if not suffixes:
            return "pass a model with state_dict(), or host=LoopHost(save=...)."
        # Keras's class takes Keras's suffixes only; the neutral one works in both lists.
        other = self._file_suffixes is not None and not set(suffixes) & set(self._file_suffixes)
        name = "use peakhold.ModelCheckpoint and name" if other else "name"
        return f"{name} the file {' or '.join(suffixes)}."

    def _check_placeholders(self) -> None:
        names = self.host.metric_names()
        if names is None or self.session.has_strangers:
            return
        validates = self.host.validates()
        known = {*BUILT_IN, *names, *map(rate_key, self.host.learning_rates())}
        if validates is not False:
            known |= {f"val_{name}" for name in names}
        if self.save_freq == "epoch":
            known.discard("batch")
        for field in sorted(self._template.fields - known):
            raise InvalidArgumentError.for_argument(
                "filepath",
                self.filepath,
                "placeholders that something fills",
                hint=f"{{{field}}} is none of {', '.join(sorted(known))}"
                + ("; {batch} needs save_freq=<batches>." if field == "batch" else "."),
            )

    def _check_folder(self) -> None:
        folder = os.path.abspath(static_folder(self.filepath))
        try:
            os.makedirs(folder, exist_ok=True)
            probe = os.path.join(folder, f".{os.getpid()}.peakhold-probe")
            with open(probe, "xb"):
                pass
            os.unlink(probe)
        except OSError as error:
            raise SaveError.for_path(
                folder, error.strerror or str(error), expected="a folder that can be written"
            ) from error
        needed = self.host.state_bytes()
        if needed is not None and hasattr(os, "statvfs"):
            status = os.statvfs(folder)
            free = status.f_bavail * status.f_frsize
            if free - needed < 0:
                raise SaveError.for_path(
                    folder,
                    f"the model has {needed} bytes and {free} are free",
                    expected="a folder with room for the model",
                    hint="free some space, or save elsewhere.",
                )

    def _begin(self) -> None:
        self._files = CheckpointFolder(self.filepath, self._suffix, self.session.run_id)
        self._files.sweep()
        if self.check_finite:
            self._exempt = self.host.nonfinite()
            if self._exempt:
                self._warn_once(
                    f"{self._name}: {', '.join(sorted(self._exempt)[:5])} hold NaN or infinity "
                    "before training; they are not checked.",
                    SaveWarning,
                )

    def _epoch_begin(self, epoch: int) -> None:
        if self._missing is not None:
            error, self._missing = self._missing, None
            raise error
        if self.session.n_epochs_done == 0:
            self._resumes = epoch > 0 or self._loaded
            self._loaded = False

    def _batch_end(self, batch: int, logs: Any = None) -> None:
        if self.session.broken_epoch:
            return
        self._batches, due = EveryBatches(int(self.save_freq)).step(self._batches, batch)
        if due:
            self._save(self.session.epoch, batch, logs or {})

    @no_op
    def _no_batch_end(self, batch: int, logs: Any = None) -> None: ...

    @property
    def on_train_batch_end(self) -> Any:
        """The batch hook: a no-op in Keras's sense unless `save_freq` counts batches (K-D1)."""
        return self._no_batch_end if self.save_freq == "epoch" else self._batch_end

    def _keep(self, epoch: int, logs: dict[str, Any]) -> None:
        if self.save_freq == "epoch":
            self._save(epoch, None, logs)
        elif self._due:  # a save came due when its metric was not there; now it may be
            self._save(epoch, self._batches.last_batch, logs)

    def _keep_last(self, logs: Any) -> None:
        if self.save_freq != "epoch" and self._batches.seen:
            self._batches = replace(self._batches, seen=0)
            self._save(self.session.epoch, self._batches.last_batch, logs or {})

    def _end(self, logs: Any) -> None:
        if self._missing is None:
            super()._end(logs)

    # A save

    def _save(self, epoch: int, batch: int | None, logs: Mapping[str, Any]) -> None:
        self._resume()
        self._due = False
        path = self._template.fill(self._fillings(epoch, batch, logs))
        value = self._value(epoch, logs) if self._ranks else to_number(logs.get(self.monitor))
        if self._ranks:
            wanted = self._wanted(epoch, value, logs, path)
            if not wanted:
                return
        else:
            defect = self._defect(logs)
            if defect is not None:
                self._refuse(epoch, defect)
                return
            self._say(f"\nEpoch {epoch + 1}: saving model to {path}")
        try:
            self._write(path, epoch, batch, logs, value)
        except BaseException as error:
            if self._state.pending is not None:
                self._state = self._policy.failed(self._state)
            if not isinstance(error, (OSError, MemoryError)):
                raise  # the model cannot be written at all: no later save would fare better
            self._failed(epoch, path, error)
            return
        if self._state.pending is not None:
            self._state = self._policy.committed(self._state)
            self.best_path, self.best_epoch = path, epoch
        self.latest_path = path
        self._say(f"\nEpoch {epoch + 1}: finished saving model to {path}")

    def _wanted(self, epoch: int, value: float | None, logs: Mapping[str, Any], path: str) -> bool:
        """Whether a ranked save is wanted; if so it is pending from now on."""
        if value is None:
            self._due = self.save_freq != "epoch"
            return self._save_unranked(epoch, logs)
        observation = Observation(epoch, value)
        state, decision = self._policy.step(self._state, observation)
        if not isinstance(decision, Skip):
            defect = self._defect(logs)
            if defect is not None:
                self._refuse(epoch, defect)
                return False
        best = "None" if self._state.to_beat is None else f"{self._state.to_beat:.5f}"
        if isinstance(decision, Skip):
            self._why_not = f"{self.monitor} {decision.reason}"
            self._say(f"\nEpoch {epoch + 1}: {self.monitor} did not improve from {best}")
            return False
        self._say(
            f"\nEpoch {epoch + 1}: {self.monitor} improved from {best} to {value:.5f}, "
            f"saving model to {path}"
        )
        self._state = state
        return True

    def _save_unranked(self, epoch: int, logs: Mapping[str, Any]) -> bool:
        """The monitor is not there: save once if it should have been and nothing is known."""
        error = self._missed(logs)
        if error is None:
            return False
        self._why_not = f"{self.monitor!r} was not logged"
        first = self._missing is None and self.latest_path is None and self._state.to_beat is None
        self._missing = error
        self._warn_once(
            f"Can save best model only with {self.monitor} available. {error}", MonitorWarning
        )
        return first and self._defect(logs) is None

    def _defect(self, logs: Mapping[str, Any]) -> str | None:
        """Why this state must not be written, or None."""
        if not self.check_finite:
            return None
        loss = to_number(logs.get("loss"))
        if loss is not None and not is_finite(loss):
            return f"the loss is {loss}"
        bad = sorted(self.host.nonfinite() - self._exempt)
        if not bad:
            return None
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        return f"{bad[0]}{more} holds NaN or infinity"

    def _refuse(self, epoch: int, defect: str) -> None:
        self._why_not = defect
        kept = f" {self.latest_path!r} stays as it is." if self.latest_path else ""
        self._warn_once(
            f"{self._name} does not save epoch {epoch + 1}: {defect}.{kept} "
            "Pass check_finite=False to save such states.",
            SaveWarning,
        )

    def _write(
        self,
        path: str,
        epoch: int,
        batch: int | None,
        logs: Mapping[str, Any],
        value: float | None,
    ) -> None:
        files = self._files
        if files is None:  # hooks called by hand, without train begin
            files = self._files = CheckpointFolder(self.filepath, self._suffix, self.session.run_id)
        numbers = {key: to_number(one) for key, one in logs.items()}
        mode = None if self._direction is None else str(self._direction)
        entry = Entry(
            checksum="",
            size=0,
            epoch=epoch,
            batch=batch,
            monitor=self.monitor,
            mode=mode if self._ranks else None,
            value=value if is_finite(value) else None,
            saved_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            run_id=self.session.run_id,
            metrics={k: v for k, v in sorted(numbers.items()) if v is not None and is_finite(v)},
            versions=self.host.versions(),
        )
        again = files.was_written(path)
        keeps = self._resumes or self.initial_value_threshold is not None
        aside = files.write(
            path,
            entry,
            lambda file, folder: self.host.write(file, self._suffix, folder),
            goes_on=keeps,
            better=self._criterion.better if self._ranks else None,
        )
        if aside is not None:
            self._tell_once(f"{path} was there before this run; it is kept as {aside}.")
        if again and not self._template.is_fixed:
            self.host.say(
                f"{path} is the name of an earlier save of this run, too, and was replaced; put "
                "{epoch} or {batch} into the name to keep both."
            )

    def _tell_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self.host.say(message)

    def _failed(self, epoch: int, path: str, error: BaseException) -> None:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        self._why_not = reason
        if self.on_save_error == "raise":
            raise SaveError.for_path(path, reason, expected="a file that can be written") from error
        self.session.warn(
            f"{self._name} could not save epoch {epoch + 1} to {path!r}: {reason}. "
            "What was saved before is as it was; training goes on.",
            SaveWarning,
        )

    def _resume(self) -> None:
        """In a run that goes on: take the best from the files that are there, once."""
        if not self._resumes or self._files is None or self._files.resumed:
            return
        self._files.resumed = True
        if not self._ranks or self._direction is None:
            return
        found = self._files.best(self.monitor, str(self._direction), self._criterion.better)
        if found is None:
            self._state = SaveBestState(best=self.initial_value_threshold)
            return
        path, entry = found
        self.best_path, self.best_epoch = path, entry.epoch
        if not self._criterion.better(self.initial_value_threshold, entry.value):
            self._state = SaveBestState(best=entry.value)

    def _fillings(self, epoch: int, batch: int | None, logs: Mapping[str, Any]) -> dict[str, Any]:
        session = self.session
        values: dict[str, Any] = {
            "epoch": epoch + 1,
            "run_id": session.run_id,
            "timestamp": session.timestamp,
            "worker": session.worker,
        }
        if batch is not None:
            values["batch"] = batch + 1
        for key, value in logs.items():
            number = to_number(value)
            values[key] = value if number is None else number
        missing = self._template.missing(values)
        if missing:
            self._tell_once(
                f"{self._name}: nothing fills {{{missing[0]}}} in {self.filepath!r} here; "
                "the name reads NA there."
            )
        return values

    def _say(self, message: str) -> None:
        if self.verbose:
            self.host.say(message)

    # Words

    def _missing_message(self, logs: Mapping[str, Any]) -> str:
        return (
            f"Can save best model only with {self.monitor} available. "
            f"Available metrics are: {','.join(logs)}"
        )

    def _tell(self, facts: Facts) -> Facts:
        path = os.path.abspath(self.filepath)
        checkpoint = Checkpoint(
            self.filepath, self.monitor, self.mode, self.save_best_only, self._template.is_fixed
        )
        return replace(
            facts, checkpoints=(*facts.checkpoints, checkpoint), paths=(*facts.paths, path)
        )

    def _summary(self) -> Best | str | None:
        if self.latest_path is None and self.best_path is None:
            return f"ModelCheckpoint saved nothing to {self.filepath!r}: {self._why_not}"
        if self.best_path is None or self.best is None or self.best_epoch is None:
            return None
        return Best(self.monitor, self.best, self.best_epoch, f"saved in {self.best_path}")

    # State

    def state_dict(self) -> dict[str, Any]:
        """Counters and the best committed value, as plain JSON.

        In the next run the value counts only if the sidecar proves a file with it: what is known
        of files comes from files.
        """
        best = self._state.best
        return {
            **self._header(),
            "state": {"best": best if is_finite(best) else None},
            "batches": asdict(self._batches),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; counts for the next run.

        Raises:
            InvalidArgumentError: If the state is of another class or another monitor.
        """
        self._check_header(state)
        self._state = SaveBestState(best=state["state"]["best"])
        self._batches, self._loaded = EveryBatchesState(**state["batches"]), True


def _check_save_freq(save_freq: Any) -> str | int:
    if save_freq == "epoch":
        return "epoch"
    hint = (
        f"Unrecognized save_freq: {save_freq}. Expected save_freq are 'epoch' or integer values; "
        "save_freq=100 saves after every 100 batches."
    )
    if isinstance(save_freq, (bool, str, float)):
        raise InvalidArgumentError.for_argument(
            "save_freq", save_freq, "'epoch' or an int of at least 1", hint=hint
        )
    return check_count("save_freq", save_freq, at_least=1, hint=hint)
