"""Where `ModelCheckpoint` writes: names, and what can be known to be wrong before training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from peakhold import files
from peakhold._core.file_template import BUILT_IN, FileTemplate
from peakhold.checkpoint_files.arguments import suffix_of
from peakhold.checkpoint_files.folder import static_folder
from peakhold.errors import HostError, InvalidArgumentError, SaveError
from peakhold.host.contract import rate_key, to_number
from peakhold.runtime.monitored import Monitored

__all__ = ["CheckpointNaming"]


class CheckpointNaming(Monitored):
    """The part of `ModelCheckpoint` that knows its template and its folder."""

    filepath: str
    verbose: int

    @property
    def _template(self) -> FileTemplate:
        return FileTemplate.parse(self.filepath)

    @property
    def _suffix(self) -> str:
        return suffix_of(self.filepath)

    # Before training

    def _check_suffix(self) -> None:
        suffixes = self.host.file_suffixes()
        if suffixes is not None and not self.filepath.endswith(suffixes):
            raise HostError.lacks(
                f"{self._name}({self.filepath!r})",
                f"a model that can be written as {self._suffix}",
                self.host.describe(),
                hint=self._hint_for_suffix(suffixes),
            )

    def _hint_for_suffix(self, suffixes: tuple[str, ...]) -> str:
        if not suffixes:
            return "pass a model with state_dict(), or host=LoopHost(save=...)."
        # Keras's class takes Keras's suffixes only; the neutral one works in both lists.
        other = self._file_suffixes is not None and not set(suffixes) & set(self._file_suffixes)
        name = "use peakhold.ModelCheckpoint and name" if other else "name"
        return f"{name} the file {' or '.join(suffixes)}."

    def _check_placeholders(self, *, counts_batches: bool) -> None:
        names = self.host.metric_names()
        if names is None or self.session.has_strangers:
            return
        validates = self.host.validates()
        known = {*BUILT_IN, *names, *map(rate_key, self.host.learning_rates())}
        if validates is not False:
            known |= {f"val_{name}" for name in names}
        if not counts_batches:
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
            files.probe(folder)
        except OSError as error:
            raise SaveError.for_path(
                folder, error.strerror or str(error), expected="a folder that can be written"
            ) from error
        lack = self._lack_of_room(folder)
        if lack is not None:
            raise SaveError.for_path(
                folder,
                lack,
                expected="a folder with room for the model",
                hint="free some space, or save elsewhere.",
            )

    # At a save

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

    # Words

    def _say(self, message: str) -> None:
        if self.verbose:
            self.host.say(message)

    def _tell_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self.host.say(message)

    def _lack_of_room(self, folder: str) -> str | None:
        """Why the model does not fit on the disk, or None."""
        needed = self.host.state_bytes()
        if needed is None or not hasattr(os, "statvfs"):
            return None
        status = os.statvfs(folder)
        free = status.f_bavail * status.f_frsize
        return f"the model has {needed} bytes and {free} are free" if free < needed else None
