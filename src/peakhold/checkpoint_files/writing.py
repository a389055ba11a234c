"""What `ModelCheckpoint` does with a save that was decided: write it, and hear what became of it.

Rules of this file:

1. There is one way to write a file, and two threads to do it in. In the background, training waits
   for a plan of the file and for one copy of the state, and for nothing else.
2. No file that was asked for is dropped. The training thread waits when two are under way; only a
   fixed name lets the newer save take the place of one that has not begun, for it would replace its
   file. Before that the newer state is looked at: what is not finite replaces nothing.
3. The value to beat includes what is under way; paths, messages and the sidecar speak of committed
   files. What has become of a save is heard at the next event, on the thread that trains.
4. What cannot be written from copies is written directly, after the saves that are under way.
5. A best state that the disk refused is tried once more, at the next save or at the end, unless a
   better one has come. The next save does not wait for that: it is judged by what is committed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from peakhold._core.observation import is_finite
from peakhold._core.policies.save_when import SaveBest, SaveBestState
from peakhold.checkpoint_files.folder import CheckpointFolder
from peakhold.checkpoint_files.naming import CheckpointNaming
from peakhold.checkpoint_files.saves import (
    Fact,
    Keep,
    Order,
    SavesUnderWay,
    wait_for_saves_to,
    write_now,
)
from peakhold.errors import SaveError, SaveWarning
from peakhold.files.sidecar import Entry
from peakhold.host.contract import (
    OPTIMIZER,
    WEIGHTS,
    CannotPlanError,
    PlannedFile,
    to_number,
)

__all__ = ["CheckpointWriting"]

_MOST = 2
"""Saves under way: one is written, one waits."""


class CheckpointWriting(CheckpointNaming):
    """The half of `ModelCheckpoint` that begins when a save has been decided."""

    save_best_only: bool
    check_finite: bool
    on_save_error: str
    initial_value_threshold: float | None
    background: bool | None
    memory_budget: int | None
    keep_last: int | None
    keep_best: int | None
    sigterm_timeout: float
    _state: SaveBestState

    def __init__(self, monitor: str, mode: str) -> None:
        super().__init__(monitor, mode)
        self._saves = SavesUnderWay()
        self._forget_files()

    def _forget_files(self) -> None:
        """What belongs to one run, at its beginning."""
        self.best_path: str | None = None
        self.latest_path: str | None = None
        self.best_epoch: int | None = None
        self._resumes = False
        self._files: CheckpointFolder | None = None
        self._exempt: frozenset[str] = frozenset()
        self._later = False
        self._most: int | None = None
        self._why_not = "no epoch ended"

    @property
    def _policy(self) -> SaveBest:
        return SaveBest(self._criterion, self.initial_value_threshold)

    def _folder(self) -> CheckpointFolder:
        if self._files is None:  # hooks called by hand, without train begin
            filepath = os.path.abspath(self.filepath)
            self._files = CheckpointFolder(filepath, self._suffix, self.session.run_id)
        return self._files

    # Where: here or in the background

    def _holds(self) -> Mapping[str, int]:
        """Choose the thread that will write, and say what host memory it takes.

        Two copies, one written and one taken: where the disk is slower than the epochs, the second
        one would otherwise be allocated in mid-training, which takes ten times as long as the copy.
        """
        if self.background is None:
            fit_alone = self.session.driven and self.host.runs_fit()
            self._later = fit_alone and not self.session.strangers_follow(self)
        else:
            self._later = self.background
        if not self._later:
            return {}
        if self.host.state_bytes() is None:  # not built: what a file needs is seen at the first one
            return dict.fromkeys({WEIGHTS, OPTIMIZER}.intersection(self.host.parts()), _MOST)
        plan = self._plan()  # what only a first plan costs is paid here
        self._later = plan is not None
        return {} if plan is None else dict.fromkeys(plan.parts, self._most or 1)

    def _plan(self) -> PlannedFile | None:
        """What the file holds, to be written later; None if it must be written now."""
        if not self._later:
            return None
        try:
            plan = self.host.plan_file(self._suffix)
        except CannotPlanError as reason:
            self._tell_direct(str(reason))
            return None
        if self._most is None:
            affordable = self.session.pool.affordable
            sizes = range(_MOST, 0, -1)
            self._most = next((n for n in sizes if affordable(plan.parts, n, plan.extra_bytes)), 0)
            if not self._most:
                self._later = False
                self._tell_direct(
                    f"a copy of its state does not fit into memory_budget={self.memory_budget:,}"
                )
        return plan if self._most else None

    def _tell_direct(self, reason: str) -> None:
        if not self.session.quiet:
            self._tell_once(f"{self._name} writes {self.filepath} while training waits: {reason}.")

    # A save

    def _carry_out(self, order: Order, plan: PlannedFile | None) -> None:
        """Write what was decided; a ranked save is the value to beat from now on."""
        if plan is None or not self._hand_over(order, plan):
            self._write_here(order)

    def _hand_over(self, order: Order, plan: PlannedFile) -> bool:
        """Copy the state and let the writer do the rest; False if there is no memory for it."""
        saves = self._saves
        if self._template.is_fixed and saves.waiting == order.path:
            bad = self._bad_now()
            if bad:
                self._refuse(order.entry.epoch, _words_of(bad))
                return True
            saves.replace_waiting()
        saves.wait_for_room(self._most or 1)
        self._hear()
        saves.wait_for_room(self._most or 1)  # what was just heard of may have been refused
        try:
            held = self.session.pool.take(plan.parts)
        except MemoryError:
            self._tell_direct("there is no memory for a copy of its state")
            return False
        if self.check_finite:
            held.start_check(plan.parts)
        self._pending(order.value)
        saves.begin(self._folder(), order, plan, held, self._exempt if self.check_finite else None)
        return True

    def _try_again(self) -> bool:
        """Try once more to save the best state that the disk refused; False if there is none."""
        order = self._saves.refused
        if order is None:
            return False
        if not self._criterion.better(order.value, self._state.to_beat):
            self._saves.give_up()
            return False
        self._say(f"\nEpoch {order.entry.epoch + 1}: saving model to {order.path}, once more")
        self._pending(order.value)
        self._saves.try_again()
        return True

    def _write_here(self, order: Order) -> None:
        self._saves.wait()
        wait_for_saves_to(self.filepath)
        self._hear()
        self._pending(order.value)
        if order.keep is not None and not self.check_finite:  # which ones are good to keep
            finite = order.entry.finite and not self.host.nonfinite()
            order = replace(order, entry=replace(order.entry, finite=finite))
        try:
            fact = write_now(
                self._folder(),
                order,
                lambda file, folder: self.host.write(file, self._suffix, folder),
            )
        except (OSError, MemoryError) as error:
            fact = Fact(order, error=error)
        except BaseException:  # the model cannot be written at all: no later save would fare better
            if order.value is not None:
                self._state = self._policy.failed(self._state)
            raise
        self._apply(fact)

    def _pending(self, value: float | None) -> None:
        if value is not None:
            self._state = replace(self._state, pending=value)

    def _order(
        self,
        path: str,
        epoch: int,
        batch: int | None,
        logs: Mapping[str, Any],
        value: float | None,
        *,
        counts: bool,
    ) -> Order:
        """What is to be written; `counts`: whether it becomes the best."""
        numbers = {key: to_number(one) for key, one in logs.items()}
        ranks = self._ranks and self._direction is not None
        keeps = self.keep_last is not None or self.keep_best is not None
        loss = numbers.get("loss")
        entry = Entry(
            checksum="",
            size=0,
            epoch=epoch,
            batch=batch,
            monitor=self.monitor,
            mode=str(self._direction) if ranks else None,
            value=value if is_finite(value) else None,
            saved_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            run_id=self.session.run_id,
            metrics={k: v for k, v in sorted(numbers.items()) if v is not None},
            versions=self.host.versions(),
            finite=loss is None or is_finite(loss),
        )
        return Order(
            path,
            os.path.abspath(path),
            entry,
            goes_on=self._resumes or self.initial_value_threshold is not None,
            better=self._criterion.better if ranks else None,
            value=value if counts else None,
            keep=Keep(self.keep_last, self.keep_best, self._resumes) if keeps else None,
        )

    # What is not finite

    def _bad_now(self) -> frozenset[str]:
        """Names of variables that forbid a save of the model as it is now."""
        return self.host.nonfinite() - self._exempt if self.check_finite else frozenset()

    def _defect_now(self) -> str | None:
        """What the model as it is now tells against a save, or None."""
        bad = self._bad_now()
        return _words_of(bad) if bad else None

    def _refuse(self, epoch: int, defect: str) -> None:
        self._why_not = defect
        kept = f" {self.latest_path!r} stays as it is." if self.latest_path else ""
        self._warn_once(
            f"{self._name} does not save epoch {epoch + 1}: {defect}.{kept} "
            "Pass check_finite=False to save such states.",
            SaveWarning,
        )

    # What became of it

    def _hear(self, *, looks: bool = False) -> None:
        """Take in what has become of saves; with `looks`, whether their states are finite, too."""
        for fact in self._saves.news(looks=looks):
            self._apply(fact)

    def _apply(self, fact: Fact) -> None:
        order, committed = fact.order, fact.error is None and not fact.bad
        if order.value is not None:
            state = replace(self._state, pending=order.value)
            state = self._policy.committed(state) if committed else self._policy.failed(state)
            self._state = replace(state, pending=self._saves.value)
            if committed:
                self.best_path, self.best_epoch = order.path, order.entry.epoch
        if fact.bad:
            self._refuse(order.entry.epoch, _words_of(fact.bad))
        elif fact.error is not None:
            self._failed(order, fact.error)
        else:
            self.latest_path = order.path
            self._tell_committed(fact)

    def _tell_committed(self, fact: Fact) -> None:
        path = fact.order.path
        if fact.aside is not None:
            self._tell_once(f"{path} was there before this run; it is kept as {fact.aside}.")
        if fact.again and not self._template.is_fixed_in_a_run:
            self.host.say(
                f"{path} is the name of an earlier save of this run, too, and was replaced; put "
                "{epoch} or {batch} into the name to keep both."
            )
        if fact.trouble is not None:
            self._warn_once(
                f"{self._name} could not delete older files: {fact.trouble}. {path!r} is safe.",
                SaveWarning,
            )
        self._say(f"\nEpoch {fact.order.entry.epoch + 1}: finished saving model to {path}")

    def _failed(self, order: Order, error: BaseException) -> None:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        self._why_not = reason
        if self.on_save_error == "raise":
            self._saves.give_up()
            raise SaveError.for_path(
                order.path, reason, expected="a file that can be written"
            ) from error
        is_kept = self._saves.refused is order
        again = " A copy of its state is kept, to try once more." if is_kept else ""
        self.session.warn(
            f"{self._name} could not save epoch {order.entry.epoch + 1} to {order.path!r}: "
            f"{reason}. What was saved before is as it was; training goes on.{again}",
            SaveWarning,
        )
        if not isinstance(error, (OSError, MemoryError)):
            self._later = False  # the next one is written by the framework's own functions

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until every save that was asked for is on disk, or has failed and was reported.

        `fit` does it when it ends. For code that reads a file in mid-run, and after a `fit` that
        raised; on the thread that trains.

        Args:
            timeout_s: Seconds to wait at most; None waits as long as it takes.

        Returns:
            Whether nothing is under way any more.

        Raises:
            SaveError: If a save failed and `on_save_error="raise"`.
        """
        ended = self._saves.wait(timeout_s)
        self._hear()
        return ended

    def _settle(self) -> None:
        self.wait()
        if self._try_again():
            self.wait()

    def _terminate(self, deadline: float) -> None:
        # Training goes on meanwhile: only what is under way now is waited for.
        self._saves.wait(max(deadline - time.monotonic(), 0.0))


def _words_of(bad: frozenset[str]) -> str:
    first, *others = sorted(bad)
    more = f" and {len(others)} more" if others else ""
    return f"{first}{more} holds NaN or infinity"
