"""Weights & Biases as a sink of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

from peakhold.sinks.rows import EpochRow
from peakhold.sinks.tracker import About, RunEnding, Tracker

__all__ = ["WandbSink"]


@final
class WandbSink(Tracker):
    """Shows a run in Weights & Biases: `pip install 'peakhold[wandb]'`.

    W&B's steps are epochs, from 0. Its run has the id of ours, so that a start that goes on goes on
    with it. What W&B has of an epoch cannot be written again: where a run goes on, the epochs that
    an earlier start has told stay as they are. Offline each start has a folder of its own, with all
    epochs: the newest is the one to sync. The summary has the best (`best/val_loss`, …), the
    latest, `state` and `stopped_because`.

    Args:
        project: W&B's project. Defaults to what `WANDB_PROJECT` says.
        config: What else W&B shall show as the run's settings.
        name: What W&B calls the run. Defaults to the folder's name and the run's id.
        close_timeout_s: Seconds that the end of the run waits for it, and W&B at the end of the
            process; `wandb sync` sends later what is left.
        init: More arguments of `wandb.init`: `entity`, `tags`, `mode`, `dir`, ….

    Attributes:
        run: W&B's run, as soon as it is open: to log images and other things of your own to it.
    """

    where: ClassVar[str] = "W&B"
    package: ClassVar[str] = "wandb"

    def __init__(
        self,
        project: str | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        name: str | None = None,
        close_timeout_s: float = 5.0,
        **init: Any,
    ) -> None:
        super().__init__(config=config, name=name, close_timeout_s=close_timeout_s)
        self.project, self.init = project, init
        self.run: Any = None
        self._first_free = 0

    def begin(self, about: About) -> None:
        """Open W&B's run, or go on with it."""
        import wandb

        settings = wandb.Settings(
            console="off",  # the thread that trains has the streams
            finish_timeout=max(self.close_timeout_s, 0.1),
            finish_timeout_raises=True,
        )
        given = dict(self.init)
        more = given.pop("settings", None) or {}
        more = wandb.Settings(**more) if isinstance(more, Mapping) else more
        settings.update_from_settings(more)
        mode = given.get("mode") or wandb.setup().settings.mode
        asks = mode in {"online", "shared"} and wandb.run is None
        if asks and not wandb.login(prompt=False, verify=False):  # nobody would answer a prompt
            raise PermissionError("nobody is logged in: run `wandb login` once")
        self.run = wandb.init(
            project=self.project,
            id=about.run_id,
            name=about.name,
            config=dict(about.config),
            resume="allow",
            reinit="create_new",  # a run that the program has open is its own
            settings=settings,
            **given,
        )
        self._first_free = self.run.step

    def write(self, row: EpochRow) -> None:
        """Write an epoch."""
        values: dict[str, Any] = dict(row.metrics)
        if row.decided:
            values["decisions"] = row.decided
        if row.epoch >= self._first_free:
            self.run.log(values, step=row.epoch)
        best = {} if row.best is None else row.best.flat()
        self.run.summary.update({**values, "epoch": row.epoch, **best})

    def end(self, ending: RunEnding) -> None:
        """Write how it has ended."""
        best = {} if ending.best is None else ending.best.flat()
        self.run.summary.update(
            {
                "state": ending.state,
                "stopped_because": ending.reason,
                "all_decisions": ending.decided,
                **best,
            }
        )
        if ending.state == "interrupted":
            self.run.mark_preempting()
        self.run.finish(exit_code=0 if ending.state == "finished" else 1)
