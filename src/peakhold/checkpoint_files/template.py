"""The name under which `ModelCheckpoint` saves, and what is wrong with it before training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from numbers import Integral
from typing import Any, final

from peakhold._core.file_template import BUILT_IN, FileTemplate, TemplateError, split
from peakhold.errors import HostError, InvalidArgumentError
from peakhold.host.contract import Host, rate_key

__all__ = ["CheckpointTemplate", "counts_in", "folder_and_name", "static_folder"]

_SEPARATORS = os.sep + (os.altsep or "")


def folder_and_name(filepath: str) -> tuple[str, str]:
    """The folder and the name of a template, both with their places to fill."""
    return split(filepath, _SEPARATORS)


def counts_in(logs: Mapping[str, Any]) -> dict[str, int]:
    """What was logged as a whole number: only that has a format such as `{count:03d}`."""
    return {key: int(value) for key, value in logs.items() if isinstance(value, Integral)}


def static_folder(filepath: str) -> str:
    """The part of a template's folder that is the same for every save."""
    folder, _ = folder_and_name(filepath)
    while "{" in folder:
        folder, _ = folder_and_name(folder)
    return folder or "."


@final
class CheckpointTemplate:
    """A path with places to fill.

    Args:
        filepath: The path as the user wrote it.

    Example:
        >>> template = CheckpointTemplate("runs/{epoch:02d}_{loss:.1f}.weights.h5")
        >>> template.fill(0, None, {"loss": 0.5}, run_id="a", timestamp="b", worker=0)
        ('runs/01_0.5.weights.h5', [])
    """

    def __init__(self, filepath: str) -> None:
        _, name = folder_and_name(filepath)
        self.filepath = filepath
        self._parsed = parsed = FileTemplate.parse(filepath)
        self.suffix = ".weights.h5" if name.endswith(".weights.h5") else os.path.splitext(name)[1]
        """The suffix that names the format, `.weights.h5` whole."""
        self.is_fixed = parsed.is_fixed
        """Whether every save has the same name."""
        self.is_fixed_in_a_run = parsed.is_fixed_in_a_run
        """Whether every save of a run has the same name, another run's perhaps another."""

    # At a save

    def fill(
        self,
        epoch: int,
        batch: int | None,
        logs: Mapping[str, Any],
        *,
        run_id: str,
        timestamp: str,
        worker: int,
    ) -> tuple[str, list[str]]:
        """The path of one save, and the places that nothing fills; a metric wins over our names.

        Args:
            epoch: Index of the epoch, from 0.
            batch: Index of the batch, from 0; None if batches are not looked at.
            logs: What was logged: numbers, or what is shown as it is.
            run_id: The run's.
            timestamp: When the run began.
            worker: The worker that writes.
        """
        values: dict[str, Any] = {
            "epoch": epoch + 1,
            "run_id": run_id,
            "timestamp": timestamp,
            "worker": worker,
        }
        if batch is not None:
            values["batch"] = batch + 1
        values.update(logs)
        try:
            return self._parsed.fill(values), self._parsed.missing(values)
        except TemplateError as error:
            raise InvalidArgumentError.for_argument(
                "filepath",
                self.filepath,
                f"formats that fit their values ({error})",
                hint="write {count:d} for whole numbers, {val_loss:.4f} for others.",
            ) from error

    # Before training

    def check_suffix(self, host: Host, owner: str, accepted: tuple[str, ...] | None) -> None:
        """Check that the model can be written as such a file.

        Args:
            host: The model.
            owner: Name of the callback, for the message.
            accepted: Suffixes that the callback's class takes for any model; None: it takes all.

        Raises:
            HostError: If it cannot.
        """
        suffixes = host.file_suffixes()
        if suffixes is None or self.filepath.endswith(suffixes):
            return
        if suffixes:
            # Keras's class takes Keras's suffixes only; the neutral one works in both lists.
            other = accepted is not None and not set(suffixes) & set(accepted)
            name = "use peakhold.ModelCheckpoint and name" if other else "name"
            hint = f"{name} the file {' or '.join(suffixes)}."
        else:
            hint = "pass a model with state_dict(), or host=LoopHost(save=...)."
        raise HostError.lacks(
            f"{owner}({self.filepath!r})",
            f"a model that can be written as {self.suffix}",
            host.describe(),
            hint=hint,
        )

    def check_placeholders(self, host: Host, *, counts_batches: bool) -> None:
        """Check that something fills every place, where the host knows what will be logged.

        Args:
            host: The model.
            counts_batches: Whether batches are looked at, so that `{batch}` is known.

        Raises:
            InvalidArgumentError: If nothing fills one of them.
        """
        names = host.metric_names()
        if names is None:
            return
        known = {*BUILT_IN, *names, *map(rate_key, host.learning_rates())}
        if host.validates() is not False:
            known |= {f"val_{name}" for name in names}
        if not counts_batches:
            known.discard("batch")
        missing = self._parsed.missing(dict.fromkeys(known))
        if missing:
            raise InvalidArgumentError.for_argument(
                "filepath",
                self.filepath,
                "placeholders that something fills",
                hint=f"{{{missing[0]}}} is none of {', '.join(sorted(known))}"
                + ("; {batch} needs save_freq=<batches>." if missing[0] == "batch" else "."),
            )
