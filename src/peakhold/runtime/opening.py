"""How a run starts: the phases before its first moment.

Rules of this file:

1. What cannot work is raised before the first batch, and before anything has a side effect.
2. Each participant goes through these phases once in a run, those who join later when they do.
3. How the run starts (fresh, continued, resumed) is known when its first epoch begins, or the end
   comes without one.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, final

from peakhold import speech
from peakhold._core.observation import Event
from peakhold.errors import AdviceWarning, MonitorNotFoundError
from peakhold.runtime.narration import advice_for, tell
from peakhold.runtime.participant import (
    CONTINUES,
    FRESH,
    RESUMED,
    Deciding,
    Keeper,
    Participant,
)
from peakhold.runtime.script import SCRIPT
from peakhold.runtime.signals import Signals
from peakhold.runtime.turn import Cast, Errors, Turn

if TYPE_CHECKING:
    from peakhold.runtime.seat import Seat
    from peakhold.runtime.session import Session

__all__ = ["Opening"]

_CTRL_C = (
    "Peakhold: Ctrl-C: stop_training is set, for the loop to end by; on_train_end() then puts "
    "everything right and raises KeyboardInterrupt. Press Ctrl-C again to raise it at once."
)
"""Said in loops of people's own; `fit` looks after each batch."""


@final
class Opening:
    """The start of one run.

    Args:
        session: The run.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._fresh: list[Seat] = []
        self._has_put_back = False
        self._suspects: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
        """Who looks at a name that seems mistyped: by that name, what is meant, what there is."""
        self._mistyped: list[tuple[str, MonitorNotFoundError]] = []
        """Who looks at one that certainly is."""

    def suspect(self, who: str, monitor: str, suggestion: str, known: Sequence[str]) -> None:
        """A metric that somebody looks at seems mistyped."""
        names = self._suspects.setdefault((monitor, suggestion, tuple(known)), [])
        if who not in names:
            names.append(who)

    def mistyped(self, who: str, error: MonitorNotFoundError) -> None:
        """A metric that somebody looks at is certainly mistyped."""
        self._mistyped.append((who, error))

    def prepare(self) -> None:
        """All that comes before the first batch, for those who have just joined."""
        self._fresh = [seat for seat in self._session.unprepared if not seat.is_idle]
        scene = SCRIPT[Event.TRAIN_BEGIN]
        for phase in (*scene.before, *scene.first):
            getattr(self, phase)()
        self._session.is_prepared = True

    # Its phases

    def meet(self) -> None:
        """All workers begin the same run, or none does."""
        session = self._session
        fresh = [seat for seat in session.seats if not seat.has_met]
        for seat in fresh:
            seat.has_met = True
        if fresh and session.coordinator.size > 1:
            from peakhold.runtime.meeting import meet  # of several workers alone

            meet(session, fresh)

    def resume(self) -> None:
        """Ahead of anybody's train begin: take over what an interrupted run left."""
        self.meet()
        session = self._session
        if not any(seat.has_resumed for seat in session.seats):
            session.host.resumption().set_first_epoch(None)  # of a fit that raised before it began
        fresh = session.unprepared
        for seat in session.seats:
            if not isinstance(seat.participant, Keeper):
                continue
            if seat in fresh and not seat.has_resumed:
                seat.participant.resume(seat.view)
            elif any(not other.has_resumed for other in fresh):
                seat.participant.welcome(seat.view)
        for seat in fresh:
            seat.has_resumed = True

    def agree(self) -> None:
        """One name for the run, on all workers."""
        identity = self._session.identity
        own = {"run_id": identity.run_id, "timestamp": identity.timestamp}
        agreed = self._session.coordinator.agree("the name of the run", own)
        identity.take_over(agreed["run_id"], agreed["timestamp"])

    def needs(self) -> None:
        """Each forgets its earlier run, and raises what cannot work."""
        session = self._session
        session.unprepared = []  # also if one of them raises: it has been said
        needs = [seat.participant.needs(seat.view) for seat in self._fresh]
        self._raise_mistyped()
        if any(need.rates for need in needs):
            session.progress.ask_rates = session.learning_rates
            if hasattr(session.driver, "note_rates") and not session.host.runs_fit():
                session.driver.note_rates = session.note_rates
        budgets = [need.memory_budget for need in needs if need.memory_budget is not None]
        for pool in session.pools.values():
            known = [] if pool.budget is None else [pool.budget]
            pool.budget = min([*budgets, *known], default=None)

    def _raise_mistyped(self) -> None:
        """Raise the first, with who else looks at that name, and the others."""
        mistyped, self._mistyped = self._mistyped, []
        if not mistyped:
            return
        who, first = mistyped[0]
        suspecting = ((one, told[0]) for told, names in self._suspects.items() for one in names)
        looking = [*((name, error.monitor) for name, error in mistyped), *suspecting]
        same = [name for name, monitor in looking if monitor == first.monitor]
        others = [name for name in dict.fromkeys(same) if name != who]
        self._suspects = {}
        if others:
            first.add_note(f"The same holds for {speech.listed(others)}.")
        for name, error in mistyped:
            if error.monitor != first.monitor:
                first.add_note(f"and in {name}: {error}")
        raise first

    def buffers(self) -> None:
        """What will be held in memory is booked and allocated."""
        for seat in self._fresh:
            seat.pool.prepare(seat.participant.buffers_needed(seat.view))

    def advise(self) -> None:
        """What looks mistyped is said, and settings that work against each other."""
        session = self._session
        suspects, self._suspects = self._suspects, {}
        for (monitor, suggestion, known), names in suspects.items():
            who = f"{speech.listed(names)} {'monitors' if len(names) == 1 else 'monitor'}"
            session.warn(
                f"{who} {monitor!r}, which is not among the metrics of this "
                f"model ({', '.join(known)}); did you mean {suggestion!r}?",
                AdviceWarning,
            )
        if session.driven:
            for seat in self._fresh:
                for ignored in seat.callback._peakhold_seam.ignored_in(type(seat.callback)):
                    session.warn(ignored, AdviceWarning)
            tell(session, advice_for(session))

    def signals(self) -> None:
        """Ctrl-C and SIGTERM are listened to, as long as this run trains."""
        session = self._session
        if session.signals is not None or not session.driven:
            return
        if getattr(session.driver, "place", None) is not None:
            return  # a loop that can go on anywhere ends by itself, at a place where it can
        reference = weakref.ref(session)

        def owns_frame(frame: FrameType) -> bool:
            session = reference()
            return session is not None and session.host.owns_frame(frame)

        def ask(method: str) -> Callable[[], Any]:
            def call() -> None:
                session = reference()
                if session is not None:
                    getattr(session, method)()

            return call

        finishers = [
            seat for seat in session.seats
            if type(seat.participant).finish_by is not Participant.finish_by
        ]  # fmt: skip
        session.signals = Signals(
            owns_frame,
            ask("on_interrupt"),
            ask("on_termination") if finishers else None,
            None if session.host.runs_fit() else _CTRL_C,
        )
        if not session.signals.install():
            session.notice(
                "Ctrl-C cannot be caught outside the main thread: "
                "it will end this training without restoring the best weights."
            )

    # When the first epoch begins

    def put_back(self) -> None:
        """Once, before the first epoch or, if none is left, the end: what was interrupted."""
        if not self._has_put_back:
            self._has_put_back = True
            errors = Errors()
            for seat in self._session.seats:
                if isinstance(seat.participant, Keeper):
                    errors.guard(seat, seat.participant.put_back, seat.view)
            errors.raise_first()

    def begin(self, seats: Sequence[Seat], errors: Errors) -> None:
        """How this run starts is known now: tell those who have not heard."""
        if not seats:
            return
        if self._session.unprepared:
            self.prepare()  # for hooks that somebody calls by hand, without `on_train_begin`
        for seat in seats:
            seat.has_begun = True
            errors.guard(seat, self._begin_one, seat)
        turn = Turn(self._session, Cast(seats), Event.TRAIN_BEGIN, None, {})
        for seat in seats:
            errors.guard(seat, seat.participant.decide, turn.moment)
        turn.tell()

    def _begin_one(self, seat: Seat) -> None:
        loaded, seat.participant.is_loaded = seat.participant.is_loaded, False
        goes_on = self._session.progress.goes_on
        seat.participant.begin(seat.view, RESUMED if loaded else CONTINUES if goes_on else FRESH)
        if isinstance(seat.participant, Deciding):
            seat.participant.set_state(seat.participant.state)  # no step has led to it
