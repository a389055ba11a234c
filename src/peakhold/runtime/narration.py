"""What is said of a run before it begins."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, Final

from peakhold.advice import Advice, RunSettings, Schedule, advise_on
from peakhold.host.contract import Host
from peakhold.runtime.participant import Participant

__all__ = ["advice_for"]


_COUNTS: Final = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def advice_for(
    host: Host,
    params: Mapping[str, Any],
    participants: Iterable[Participant],
    *,
    is_alone: bool = True,
) -> list[Advice]:
    """Advice on the settings of a run, as its participants and its host tell them.

    Args:
        host: The model that is trained.
        params: `epochs` and `steps`, as far as they are known.
        participants: All who take part.
        is_alone: Whether this process knows of no other in its run.
    """
    epochs, steps = params.get("epochs"), params.get("steps")
    schedule = host.rate_schedule()
    settings = RunSettings(
        epochs=epochs if isinstance(epochs, int) else None,
        steps=steps if isinstance(steps, int) else None,
        validates=host.validates(),
        first_validation=host.first_validation(),
        names=host.metric_names(),
        directions=host.metric_directions(),
        schedules=() if schedule is None else (Schedule(*schedule),),
        strangers=_processes() if is_alone else None,
    )
    for participant in participants:
        settings = participant.advise(settings)
    return list(advise_on(settings))


def _processes() -> tuple[str, int] | None:
    """The variable that says that there is more than one process of this run, and how many."""
    for variable in _COUNTS:
        text = os.environ.get(variable, "")
        if text.isdecimal() and int(text) > 1:
            return variable, int(text)
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG") or "{}")["cluster"]
        n = sum(len(cluster.get(job, ())) for job in ("chief", "worker"))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return ("TF_CONFIG", n) if n > 1 else None
