"""Trackio as a sink of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

from peakhold.sinks.rows import EpochRow
from peakhold.sinks.tracker import About, RunEnding, Tracker

__all__ = ["TrackioSink"]


@final
class TrackioSink(Tracker):
    """Shows a run in Trackio: `pip install 'peakhold[trackio]'`.

    Trackio's steps are epochs, from 0. Its run has a name that holds the id of ours: a start that
    goes on goes on with it. What Trackio has of an epoch cannot be taken back: where a run goes on,
    the epochs that an earlier start has told stay as they are. Each row has the best so far
    (`best/val_loss`, …) beside the latest; how it has ended is an alert.

    Args:
        project: Trackio's project.
        config: What else Trackio shall show as the run's settings.
        name: What Trackio calls the run; another for each run. Defaults to the folder's name and
            the run's id.
        close_timeout_s: Seconds that the end of the run waits for it.
        init: More arguments of `trackio.init`: `space_id`, `server_url`, `group`, ….
    """

    where: ClassVar[str] = "Trackio"
    package: ClassVar[str] = "trackio"

    def __init__(
        self,
        project: str,
        *,
        config: Mapping[str, Any] | None = None,
        name: str | None = None,
        close_timeout_s: float = 5.0,
        **init: Any,
    ) -> None:
        super().__init__(config=config, name=name, close_timeout_s=close_timeout_s)
        self.project, self.init = project, init
        self.run: Any = None
        """Trackio's run, as soon as it is open."""
        self._first_free = 0

    def begin(self, about: About) -> None:
        """Open Trackio's run, or go on with it."""
        import trackio

        config = dict(about.config)
        self.run = trackio.init(
            self.project, name=about.name, config=config, resume="allow", embed=False, **self.init
        )
        self._first_free = self.run._next_step  # what it has found; nothing public says it

    def write(self, row: EpochRow) -> None:
        """Write an epoch."""
        if row.epoch < self._first_free:
            return
        values: dict[str, Any] = dict(row.metrics)
        if row.best is not None:
            values |= row.best.flat()
        if row.decided:
            values["decisions"] = row.decided
        self.run.log(values, step=row.epoch)

    def end(self, ending: RunEnding) -> None:
        """Write how it has ended."""
        import trackio

        levels = {"finished": "INFO", "interrupted": "WARN", "failed": "ERROR"}
        level = trackio.AlertLevel[levels[ending.state]]
        self.run.alert(f"run {ending.state}", ending.reason, level=level)
        self.run.finish()
