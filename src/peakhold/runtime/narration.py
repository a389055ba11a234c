"""What is said of a run before it begins."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from peakhold._core.moments import Moment
from peakhold._core.observation import is_finite
from peakhold.advice import Advice, RunSettings, Schedule, advise_on, located, not_finite
from peakhold.disk.mounts import MountTable
from peakhold.errors import AdviceWarning
from peakhold.host.contract import Host
from peakhold.host.finding import traits_of
from peakhold.runtime import filing
from peakhold.runtime.participant import Keeper, Participant

if TYPE_CHECKING:
    from peakhold.runtime.session import Session

__all__ = ["advice_for", "settings_of", "strangers", "tell", "tell_not_finite"]


_COUNTS: Final = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


_told: set[str] = set()
"""Codes of what is said once in a process, and was."""


def advice_for(session: Session) -> list[Advice]:
    """Advice on the settings of a run, as its participants and its host tell them.

    Args:
        session: The run.
    """
    host = session.host
    participants = [seat.participant for seat in session.seats]
    settings = settings_of(
        participants,
        session.callbacks,
        host,
        session.params,
        lambda callback: host.resumption().stateless_base(callback),
        is_alone=not session.has_workers,
    )
    if settings.folders:
        sizes: dict[str, Callable[[], int | None]] = {
            "state": host.state_bytes,
            "weights": partial(host.state_bytes, weights_only=True),
        }
        settings = located(settings, sizes, MountTable.read())
    return advise_on(settings)


def settings_of(
    participants: Iterable[Participant],
    callbacks: Iterable[Any],
    host: Host,
    params: Mapping[str, Any],
    stateless_base: Callable[[Any], type | None],
    *,
    is_alone: bool = True,
) -> RunSettings:
    """The settings of a run, but for what only the disk knows.

    Args:
        participants: All who take part.
        callbacks: All callbacks, users' too.
        host: The model that is trained.
        params: `epochs` and `steps`, as far as they are known.
        stateless_base: Gives the class below a user's own that has no state; None if it has one.
        is_alone: Whether this process knows of no other in its run.
    """
    epochs, steps = params.get("epochs"), params.get("steps")
    schedule = host.rate_schedule()
    keepers_last = sorted(participants, key=lambda one: isinstance(one, Keeper))
    is_kept = bool(keepers_last) and isinstance(keepers_last[-1], Keeper)
    settings = RunSettings(
        epochs=epochs if isinstance(epochs, int) else None,
        steps=steps if isinstance(steps, int) else None,
        validates=host.validates(),
        first_validation=host.first_validation(),
        names=host.metric_names(),
        directions=host.metric_directions(),
        schedules=() if schedule is None else (Schedule(*schedule),),
        strangers=strangers() if is_alone else None,
        resumes=any(one.is_loaded for one in keepers_last),
        forgetful=_forgetful(callbacks, stateless_base) if is_kept else ((), ()),
    )
    for participant in keepers_last:  # what a backup holds depends on the others
        settings = participant.advise(settings)
    return settings


def _forgetful(
    callbacks: Iterable[Any], stateless_base: Callable[[Any], type | None]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Classes that a resume would lose something of: users', and the framework's own."""
    found = filing.without_state(callbacks, stateless_base)
    users, frameworks = (
        tuple(type(one).__name__ for one in found if (traits_of(one) is None) is is_users)
        for is_users in (True, False)
    )
    return users, frameworks


def tell(session: Session, found: Iterable[Advice]) -> None:
    """Say what the rules have found: a warning always, a notice when a run begins anew.

    Args:
        session: The run.
        found: What they have found.
    """
    resumes = any(seat.participant.is_loaded for seat in session.seats)
    for advice in found:
        if advice.once and advice.code in _told:
            continue
        if advice.level == "warning":
            session.warn(str(advice), AdviceWarning)
        elif (advice.again or not resumes) and not session.quiet:  # else it was said at first
            session.notice(str(advice))
            if advice.once:
                _told.add(advice.code)


def tell_not_finite(session: Session, moment: Moment) -> None:
    """The first epoch has ended: say which metric is not finite, unless somebody looks at it.

    Args:
        session: The run.
        moment: The end of the epoch.
    """
    ends = session.stop_reasons or session.state_unusable or session.host.stop_requested()
    if not session.driven or ends or moment.at.number != 1:
        return
    bad = [(name, value) for name, value in moment.metrics.items() if not is_finite(value)]
    participants = [seat.participant for seat in session.seats]
    if not any(one.looks_at(name) for one in participants for name, _ in bad):
        tell(session, [one for name, value in bad for one in not_finite(name, value, 1, None)])


def strangers() -> tuple[str, int] | None:
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
