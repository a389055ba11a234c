"""The name under which `ModelCheckpoint` saves, and what is wrong with it before training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, final

from peakhold._core.file_template import BUILT_IN, FileTemplate
from peakhold.errors import HostError, InvalidArgumentError
from peakhold.host.contract import Host, rate_key, to_number

__all__ = ["CheckpointTemplate", "static_folder"]


def static_folder(filepath: str) -> str:
    """The part of a template's folder that is the same for every save."""
    folder = os.path.dirname(filepath)
    while "{" in folder:
        folder = os.path.dirname(folder)
    return folder or "."


@final
class CheckpointTemplate:
    """A path with places to fill.

    Args:
        filepath: The path as the user wrote it.

    Example:
        >>> template = CheckpointTemplate("runs/{epoch:02d}_{loss:.1f}.weights.h5")
        >>> values = template.values(0, None, {"loss": 0.5}, run_id="a", timestamp="b", worker=0)
        >>> template.fill(values), template.suffix
        ('runs/01_0.5.weights.h5', '.weights.h5')
    """

    def __init__(self, filepath: str) -> None:
        self.filepath = filepath
        self._parsed = FileTemplate.parse(filepath)

    @property
    def suffix(self) -> str:
        """The suffix that names the format, `.weights.h5` whole."""
        name = os.path.basename(self.filepath)
        return ".weights.h5" if name.endswith(".weights.h5") else os.path.splitext(name)[1]

    @property
    def is_fixed(self) -> bool:
        """Whether every save has the same name."""
        return self._parsed.is_fixed

    @property
    def is_fixed_in_a_run(self) -> bool:
        """Whether every save of a run has the same name, another run's perhaps another."""
        return self._parsed.is_fixed_in_a_run

    # At a save

    def values(
        self,
        epoch: int,
        batch: int | None,
        logs: Mapping[str, Any],
        *,
        run_id: str,
        timestamp: str,
        worker: int,
    ) -> dict[str, Any]:
        """What can be filled in at a save; a logged metric wins over a name of ours.

        Args:
            epoch: Index of the epoch, from 0.
            batch: Index of the batch, from 0; None if batches are not looked at.
            logs: Metrics of that moment.
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
        for key, value in logs.items():
            number = to_number(value)
            values[key] = value if number is None else number
        return values

    def missing(self, values: Mapping[str, Any]) -> list[str]:
        """The places that `values` cannot fill, sorted."""
        return self._parsed.missing(values)

    def fill(self, values: Mapping[str, Any]) -> str:
        """The path of one save."""
        return self._parsed.fill(values)

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
