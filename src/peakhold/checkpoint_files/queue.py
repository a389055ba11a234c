"""Saves that one thread asks for and another one writes.

Rules of this file:

1. A save holds what it needs (plan, snapshot, folder) and nothing of the callback: it is written
   though the callback is gone, and `fit` has raised.
2. What became of it waits until the thread that trains asks. Nothing here prints, warns or looks
   at a model; but where nobody is left to ask, what went wrong is said as a warning (`unheard.py`).
3. Whether a snapshot is finite is asked by both threads and found out once, before the first byte
   is written. It does not queue behind other files.
4. A forked child has none of its parent's saves: the parent writes them, and only the parent.
5. A best state that the disk refused keeps its copy: epochs that did not beat it were not saved, so
   with it they would all be lost. It is tried once more, or let go for a better one.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import final

from peakhold import process
from peakhold.checkpoint_files.folder import CheckpointFolder
from peakhold.checkpoint_files.requests import SaveOutcome, SaveRequest
from peakhold.checkpoint_files.unheard import Unheard, told_at_its_end
from peakhold.files import background
from peakhold.host.contract import PlannedFile
from peakhold.snapshots.pool import Held

__all__ = ["SaveQueue", "wait_for_saves_to"]


class _TakenBackError(Exception):
    """A save that was taken back before it began. No `OSError`: the disk has refused nothing."""


@final
class _SaveTask:
    """A request on its way to the disk.

    Args:
        folder: Where to; only the writer thread uses it while a save is under way.
        request: What.
        plan: Writes the file.
        held: The arrays for it; released when the save has ended.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        request: SaveRequest,
        plan: PlannedFile,
        held: Held,
    ) -> None:
        self.request, self.filepath = request, folder.filepath
        self.task = background.Task(self._write)
        self._folder = folder
        self._needs: tuple[PlannedFile, Held] | None = (plan, held)
        self._bad: frozenset[str] | None = None
        self._looking = threading.Lock()
        self.unheard = Unheard()
        self.number = next(_numbers)
        _under_way[self.number] = self

    def bad(self) -> frozenset[str]:
        """Names of variables that forbid this save; waits until they have been looked at."""
        with self._looking:
            if self._bad is None:
                self._bad = frozenset()
                if self._needs is not None and self.request.exempt is not None:
                    plan, held = self._needs
                    self._bad = held.nonfinite(plan.parts) - self.request.exempt
            return self._bad

    def cancel(self) -> bool:
        """Take it back, if it has not begun."""
        taken_back = self.task.cancel(_TakenBackError("replaced by a later save"))
        if taken_back:
            self.let_go()
        return taken_back

    def outcome(self) -> SaveOutcome:
        """What became of it, once it has ended."""
        return self.task.value or SaveOutcome(self.request, error=self.task.error)

    def _write(self) -> SaveOutcome:
        stays = False
        try:
            bad = self.bad()
            outcome = SaveOutcome(self.request, bad=bad) if bad else self._commit()
            self._is_over(outcome)
            return outcome  # noqa: TRY300 - what that raises is nobody's
        except BaseException as error:
            if isinstance(error, OSError):
                stays = self.request.value is not None and not self.request.is_retry  # rule 5
            self._is_over(SaveOutcome(self.request, error=error))
            raise
        finally:
            if stays:
                _under_way.pop(self.number, None)
            else:
                self.let_go()

    def _is_over(self, outcome: SaveOutcome) -> None:
        self.unheard.outcome = outcome
        if self.unheard.is_alone:
            self.unheard.tell()

    @property
    def may_be_tried_again(self) -> bool:
        """Whether it has ended, and still holds what it was to write."""
        return self.task.done and self._needs is not None

    def again(self, ticket: int) -> _SaveTask:
        """Another save of the same, which has what this one held."""
        needs, self._needs = self._needs, None
        if needs is None:
            raise RuntimeError("its copy was let go")
        return _SaveTask(self._folder, replace(self.request, is_retry=True, ticket=ticket), *needs)

    def _commit(self) -> SaveOutcome:
        if self._needs is None:  # nobody waits for it any more
            raise _TakenBackError("the save was taken back")
        plan, held = self._needs
        request = self.request
        if request.must_know_whether_finite:
            request = request.found(finite=not held.nonfinite(plan.parts))
        return self._folder.save(request, partial(plan.write, held=held.parts))

    def let_go(self) -> None:
        """The buffers are somebody else's from here on, before anybody hears that it has ended."""
        needs, self._needs = self._needs, None
        if needs is not None:
            needs[1].release()
        _under_way.pop(self.number, None)


_numbers = itertools.count()
_under_way: dict[int, _SaveTask] = {}
"""All saves of this process; a plain dict, for a lock might be held when somebody forks."""

process.in_forked_child(_under_way.clear)


def wait_for_saves_to(filepath: str) -> None:
    """Wait for the saves of any callback under this template.

    An earlier `fit` that raised may have left some: what they write is what this run finds.
    """
    path = os.path.abspath(filepath)
    for save in list(_under_way.values()):
        if save.filepath == path:
            save.task.wait()


@final
class SaveQueue:
    """The saves of one callback, in the order in which they were asked for.

    Copies and pickles are empty: a save has one owner.

    Args:
        name: The class of that callback, for what is said when it is gone.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._begin()

    def _begin(self) -> None:
        self._saves: list[_SaveTask] = []
        self.kept: _SaveTask | None = None
        """The best state that the disk refused, with its copy."""
        self._pid = os.getpid()
        told_at_its_end(self, self._name, self._saves)

    def __reduce__(self) -> tuple[type[SaveQueue], tuple[str]]:
        return SaveQueue, (self._name,)

    def _mine(self) -> list[_SaveTask]:
        if self._pid != os.getpid():  # rule 4
            self._begin()
        return self._saves

    @property
    def value(self) -> float | None:
        """The value of the newest ranked save that is under way."""
        return next(
            (s.request.value for s in reversed(self._mine()) if s.request.value is not None), None
        )

    @property
    def waiting(self) -> str | None:
        """Path of the newest save, if it has not begun as far as is known."""
        saves = [save for save in self._mine() if not save.task.done]
        return saves[-1].request.path if len(saves) > 1 else None

    def begin(
        self,
        folder: CheckpointFolder,
        request: SaveRequest,
        plan: PlannedFile,
        held: Held,
    ) -> None:
        """Hand a save to the writer thread."""
        saves = self._mine()
        saves.append(_SaveTask(folder, request, plan, held))
        background.submit(saves[-1].task)

    @property
    def refused(self) -> SaveRequest | None:
        """The best state that the disk refused and whose copy is still there."""
        self._mine()
        return None if self.kept is None else self.kept.request

    @property
    def is_empty(self) -> bool:
        """Whether nothing is under way, or unheard of."""
        return not self._saves or not self._mine()

    def try_again(self, ticket: int = 0) -> None:
        """Hand what was refused to the writer once more.

        Args:
            ticket: Names the decision that asked for it.
        """
        refused, self.kept = self.kept, None
        if refused is not None:
            saves = self._mine()
            saves.append(refused.again(ticket))
            background.submit(saves[-1].task)

    def give_up(self) -> None:
        """Let go of what was refused."""
        refused, self.kept = self.kept, None
        if refused is not None:
            refused.let_go()

    def replace_waiting(self) -> SaveRequest | None:
        """Take the newest save back if it has not begun; what it was to write."""
        saves = self._mine()
        if not saves or not saves[-1].cancel():
            return None
        return saves.pop().request

    def wait_for_room(self, limit: int) -> None:
        """Wait until fewer than `limit` saves hold buffers, the one that was refused included."""
        if limit == 1:
            self.give_up()
        elif self.refused is not None:
            limit -= 1
        while len(going := [save for save in self._mine() if not save.task.done]) >= limit:
            going[0].task.wait()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of all; False if it has not come in time."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        for save in list(self._mine()):
            left = None if until is None else max(until - time.monotonic(), 0.0)
            if not save.task.wait(left):
                return False
        return True

    def news(self, *, looks: bool = False) -> Iterator[SaveOutcome]:
        """What has become known since the last time, in order; each is told once.

        Args:
            looks: Whether to wait until it is known of each snapshot whether it is finite.
        """
        if looks:
            for save in [one for one in self._mine() if not one.task.done]:
                if bad := save.bad():
                    save.cancel()
                    self._saves.remove(save)
                    yield SaveOutcome(save.request, bad=bad)
        saves = self._mine()
        while saves and saves[0].task.done:
            save = saves.pop(0)
            if save.may_be_tried_again:
                self.give_up()
                self.kept = save
            yield save.outcome()
