"""What is said of a run before it begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from peakhold.advice import Advice, RunSettings, Schedule, advise_on
from peakhold.host.contract import Host
from peakhold.runtime.participant import Participant

__all__ = ["advice_for"]


def advice_for(
    host: Host, params: Mapping[str, Any], participants: Iterable[Participant]
) -> list[Advice]:
    """Advice on the settings of a run, as its participants and its host tell them.

    Args:
        host: The model that is trained.
        params: `epochs` and `steps`, as far as they are known.
        participants: All who take part.
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
    )
    for participant in participants:
        settings = participant.advise(settings)
    return list(advise_on(settings))
