"""What one of several workers wants to end training for, and how all do: at one batch.

Rules of this file:

1. What a worker wants is a proposal, until all have agreed: at the border, within an epoch
   (`distributed/border.py`), or in the round at its end (`exchange.py`), whichever comes first.
   SIGTERM ends all within an epoch, or each by itself (`ending_by_signal.py`).
2. What all have agreed to, each carries out as if it had come to itself.
3. Batches are looked at only while a border is agreed on, by the list itself: a callback's hook
   would turn Keras's asynchronous dispatch off.
4. A signal's handler sets flags, and wakes the thread.
5. A user's callback that is called after the last round of an epoch may set `stop_training` on one
   worker alone. Where there is such a one on any, they ask each other once more, after the list's
   last callback.
6. A list outlives a run that raised: what was put on it looks whether its run is still the list's.
7. A loop that can go on anywhere (`LoopPlace`) has borders of its own, and saves there, too. It
   asks at each of them, as long as `watch` says so; nothing is put on its list for that.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, final

from peakhold._core.moments import number_of
from peakhold.distributed.border import END, OVER, Border

if TYPE_CHECKING:
    from peakhold.runtime.loop_list import LoopPlace
    from peakhold.runtime.session import Session

__all__ = ["Proposals"]

_BATCH_END: Final = "on_train_batch_end"
_EPOCH_END: Final = "on_epoch_end"


@final
class Proposals:
    """The proposals of one worker.

    Args:
        session: The run; it is held weakly, for a thread asks.
        border: Where all end within an epoch; None: they do at its end.
    """

    def __init__(self, session: Session, border: Border | None) -> None:
        self._session = weakref.ref(session)
        self._border = border
        self.stops: list[tuple[str, bool, str]] = []
        """Why this worker wants to end training: reason, whether the state is bad, by whom."""
        self.interrupt = False
        """Whether Ctrl-C came to this one."""
        self.terminate = False
        """Whether SIGTERM came to this one, and the signal has not taken its course."""
        self.of_loop: Mapping[str, Any] = {}
        """What its loop wants, plain JSON, if that can go on anywhere; empty: nothing."""
        self.is_terminated = threading.Event()
        """Set when all have finished, and end by the signal."""
        self.is_over = False
        """Whether training has ended."""
        self._take_off: Callable[[], None] | None = None
        """Has the list call what it called at a batch's end, if batches are looked at."""
        self._asks_after_epochs = False
        if border is not None:
            border.proposer = self

    # What this worker wants

    def propose(self, reason: str, bad: bool, by: str) -> None:
        """It wants to end training; whoever says so at each batch is heard once."""
        if not by or all(by != other for _, _, other in self.stops):
            self.stops.append((reason, bad, by))
            self._wake()

    def propose_interrupt(self) -> None:
        """Ctrl-C came. In a signal handler: set flags, nothing else."""
        self.interrupt = True
        self._wake()

    def propose_termination(self) -> None:
        """SIGTERM came. On a thread of its own."""
        self.is_terminated.clear()
        self.terminate = True
        self._wake()

    def propose_of_loop(self, wanted: Mapping[str, Any]) -> None:
        """Its loop wants something, or nothing any more. In the main thread."""
        if wanted != self.of_loop:
            self.of_loop = wanted
            self._wake()

    def _wake(self) -> None:
        if self._border is not None:
            self._border.propose()

    def withdraw(self) -> dict[str, Any]:
        """What it wants, for a round that all go through; it is not proposed again."""
        session, stops, interrupt = self._session(), self.stops, self.interrupt
        of_loop, self.of_loop = self.of_loop, {}
        self.stops, self.interrupt = [], False
        asked = session is not None and session.host.stop_requested()
        agreed = session is None or session.interrupted or session.stop_reasons
        return {
            "stops": stops,
            "interrupt": interrupt,
            "asked": asked and not agreed,
            "of_loop": of_loop,
        }

    @property
    def has_border(self) -> bool:
        """Whether all may end within an epoch."""
        return self._border is not None and not self.is_over

    # What the border asks, in the thread

    def wants(self) -> bool:
        """Whether it wants anything."""
        return bool(self.stops or self.interrupt or self.terminate or self.of_loop)

    def proposal(self) -> dict[str, Any]:
        """What it wants, for the border."""
        return {
            "stops": list(self.stops),
            "interrupt": self.interrupt,
            "terminate": self.terminate,
            "of_loop": self.of_loop,
        }

    def count(self) -> None:
        """Have the list tell of each batch, or its loop."""
        place = self._place()
        if place is not None:
            place.watch(True)
        elif self._take_off is None:
            self._take_off = self._after(_BATCH_END, self._pass)

    def _place(self) -> LoopPlace | None:
        """The loop, if it can go on anywhere."""
        session = self._session()
        place: LoopPlace | None = None
        if session is not None:
            place = getattr(session.driver, "place", None)
        return place

    def _after(self, hook: str, work: Callable[[int], None]) -> Callable[[], None] | None:
        """Have the list do something when all callbacks were called for a hook; how to end it."""
        session = self._session()
        driver = None if session is None else session.driver
        if driver is None:
            return None
        before, own, reference = vars(driver).get(hook), getattr(driver, hook), weakref.ref(driver)

        def called(number: int, *args: Any, **kwargs: Any) -> Any:
            result = own(number, *args, **kwargs)
            session = self._session()
            if session is None or not session.is_lists:
                take_off()
                return result
            try:
                work(number)
            except BaseException as error:
                if not self.is_terminated.is_set():  # or all end, each by the signal
                    session.coordinator.fail(error)
                raise
            return result

        def take_off() -> None:
            driver = reference()
            if driver is None or vars(driver).get(hook) is not called:
                return
            if before is None:
                vars(driver).pop(hook)
            else:
                setattr(driver, hook, before)

        setattr(driver, hook, called)
        return take_off

    # The main thread

    def rest(self) -> None:
        """The list calls what it called before."""
        place = self._place()
        if place is not None:
            place.watch(False)
        take_off, self._take_off = self._take_off, None
        if take_off is not None:
            take_off()

    def ask_after_epochs(self) -> None:
        """A user's callback may set `stop_training` when our round of an epoch is over."""
        if not self._asks_after_epochs:
            self._asks_after_epochs = True
            self._after(_EPOCH_END, self._ask)

    def _ask(self, epoch: int) -> None:
        session = self._session()
        if session is not None:
            self.epoch_ended(epoch)
            number = number_of(epoch, session.progress.first)
            what = f"the last callback at the end of epoch {number}"
            of_loop, self.of_loop = self.of_loop, {}  # the commit is over: at the next place
            wanted = session.coordinator.gather(what, self.withdraw())
            self.of_loop = of_loop
            carry_out(session, wanted)

    def _pass(self, batch: int) -> None:
        session = self._session()
        if session is not None:
            n_done = getattr(session.driver, "n_batches_done", None)
            agreed = self._reach(session, batch + 1 if n_done is None else n_done, batch)
            if agreed is None:
                return
            if any(each["terminate"] for each in agreed):
                from peakhold.runtime.ending_by_signal import end_all  # hardly ever

                end_all(session, self, batch)
            carry_out(session, agreed)

    def reach(self, n_done: int) -> bool:
        """A loop that can go on anywhere is between two batches.

        Args:
            n_done: How many of this epoch are done.

        Returns:
            Whether this was the border, and all do now what any of them wanted.
        """
        session = self._session()
        agreed = None if session is None else self._reach(session, n_done, n_done - 1)
        if session is None or agreed is None:
            return False
        carry_out(session, agreed)
        return True

    def _reach(self, session: Session, n_done: int, batch: int) -> Sequence[Any] | None:
        """What each wants, by rank, if all are at the border now."""
        border = self._border
        if border is None:
            return None
        epoch = session.progress.epoch
        if border.reach((epoch, n_done)):
            number = number_of(epoch, session.progress.first)
            session.coordinator.await_border(
                f"batch {batch} of epoch {number}, where all are to meet"
            )
        agreed = border.take()
        if agreed is not None:
            own = agreed[session.coordinator.rank]
            del self.stops[: len(own["stops"])]
            self.interrupt = self.interrupt and not own["interrupt"]
            left = self.of_loop.items() - own["of_loop"].items()
            self.of_loop = dict(left)
        return agreed

    def epoch_ended(self, epoch: int) -> None:
        """The round at an epoch's end is next, or all batches of it are done."""
        if self._border is not None and self._border.is_active:
            self._border.reach((epoch, END))

    def training_ended(self) -> None:
        """No batch will come any more."""
        self.is_over = True
        if self._border is not None:
            self._border.is_over = True
        if self._border is not None and self._border.is_active:
            self._border.reach(OVER)


def carry_out(session: Session, wanted: Sequence[Any], *, may_go_on: bool = True) -> None:
    """All have agreed to what each of them wants.

    Args:
        session: The run.
        wanted: By rank.
        may_go_on: Whether there is a loop to be told.
    """
    session.is_agreed = True
    try:
        if any(each["interrupt"] for each in wanted):
            session.interrupt_now()
        for reason, bad, by in _each_once(stop for each in wanted for stop in each["stops"]):
            session.stop(reason, bad=bad, by=by)
        if may_go_on and any(each.get("asked") for each in wanted):
            session.host.request_stop()
        of_loops = [each["of_loop"] for each in wanted if each["of_loop"]]
        place: LoopPlace | None = getattr(session.driver, "place", None)
        if of_loops and place is not None:
            place.agreed(of_loops)
    finally:
        session.is_agreed = False


def _each_once(stops: Iterable[Sequence[Any]]) -> Iterable[tuple[Any, ...]]:
    return dict.fromkeys(map(tuple, stops))
