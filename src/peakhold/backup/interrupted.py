"""A run that was interrupted, as its backup has it: each is given what is theirs, once.

Callbacks may join a run after it has been resumed: whoever finds no state yet finds it then. What
nobody has taken by the end is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, final

from peakhold.backup.record import unpack
from peakhold.backup.state import checked, checked_extra, used
from peakhold.errors import BackupMismatchError, PeakholdError
from peakhold.host.contract import OPTIMIZER
from peakhold.host.extras import EXTRA, Extras
from peakhold.host.resume import EpochRecord, Resumption
from peakhold.runtime.callback import link_of
from peakhold.runtime.random_state import set_random_state
from peakhold.snapshots.pool import Held

if TYPE_CHECKING:
    from peakhold.backup.folder import BackupFolder, Place
    from peakhold.backup.followed import FollowedFolder
    from peakhold.backup.sharded import ShardedFolder

__all__ = ["STATE", "Interrupted"]

STATE = "train_state"
"""The part of a backup that holds all but the model."""


@final
class Interrupted:
    """What one backup holds.

    Args:
        parts: As it was saved.
        path: Of the backup, for messages.
        rank: Of this worker: what it had for itself is in the place of what rank 0 had.
        n_workers: How many this run has. With another number than before, rank 0's counts.

    Attributes:
        state: All but the model and what was taken along with it.
        begins: Whether it holds only how the run began.
        n_workers: How many workers the run had that was interrupted.

    Raises:
        CheckpointDamagedError: If its state is not one of ours.
    """

    def __init__(self, parts: dict[str, Any], path: str, rank: int = 0, n_workers: int = 1) -> None:
        self.path = path
        self.state: dict[str, Any] = dict(checked(parts.pop(STATE, None), path))
        self.extra: dict[str, Any] = dict(checked_extra(parts.pop(EXTRA, None), path))
        """The states of what was given to the list as `extra`, by name."""
        workers = self.state.get("workers") or [None]
        self.n_workers = int(self.state.get("n_workers") or len(workers))
        self._has_generators = rank == 0
        self._own: Mapping[str, Any] = {}
        """What this worker had for itself."""
        if len(workers) == n_workers > 1:
            with used("what each worker had for itself", path):
                self._take_own(workers[rank], parts)
        self._parts = parts
        self.parts = frozenset(parts)
        """Names of the model's parts that it holds."""
        self._given: set[str] = set()
        """Whose states were given back, by the names that they are filed under."""
        self._held_given: set[str] = set()
        """The same for snapshots."""
        self.begins = bool(self.state["begins"])

    def passed(self) -> EpochRecord | None:
        """What the epochs before have logged."""
        with used("its record of epochs", self.path):
            return unpack(self.state["passed"])

    def _take_own(self, own: Mapping[str, Any], parts: dict[str, Any]) -> None:
        from peakhold.backup.own import extras_of, put_into  # of several workers alone

        self._own = own
        put_into(own, parts, self.state)
        self.extra.update(extras_of(own))
        self._has_generators = True

    def put_random_state_back(self) -> None:
        """To be done last: whoever draws a number changes it.

        With another number of workers than before only rank 0 has one of before.
        """
        if self._has_generators:
            with used("the state of its random generators", self.path):
                set_random_state(self.state["random"])

    def fit_model(self, resumption: Resumption, extras: Extras, backup_dir: str) -> bool:
        """Build the model if need be, see that the backup is of this one, and fill it.

        What was taken along with it is filled, too.

        A layer that never says that it is built is no reason to refuse: whether all fits is.

        Returns:
            Whether it is filled; if not, it is not built yet.

        Raises:
            BackupMismatchError: If the backup is of another model.
        """
        with used("how its model is built", self.path):
            built = resumption.build(self.state["build"])
        words = resumption.mismatches(self._parts, self.state["names"])
        if words and not built:
            return False
        words += extras.mismatches(self.extra)
        if words:
            raise BackupMismatchError.for_tensors(backup_dir, self._by_class(words, resumption))
        with used("what belongs to its model", self.path):
            resumption.put_back(self._parts, self.state["more"])
        for name in extras.names:
            if name in self.extra:
                try:
                    extras.put_back(name, self.extra[name])
                except Exception as error:  # whatever a user's own function raises
                    why = f"extra {name!r} cannot take its state ({type(error).__name__}: {error})"
                    raise BackupMismatchError.for_tensors(backup_dir, [why]) from error
        return True

    def _by_class(self, words: list[str], resumption: Resumption) -> list[str]:
        """What does not fit; that the optimizer is of another class, in place of its variables."""
        then = (self.state.get("configured") or {}).get(OPTIMIZER, {}).get("class")
        now = repr(resumption.settings().get("class"))
        others = [one for one in words if not one.startswith(f"{OPTIMIZER}: ")]
        if then is None or then == now or len(others) == len(words):
            return words
        return [f"the optimizer is {now}, it was {then}", *others]

    def give_states(
        self, callbacks: Mapping[str, Any], *, of_ours: bool, again: bool = False
    ) -> None:
        """Give the states to those whose they are and who have none yet.

        Args:
            callbacks: By the names that they are filed under.
            of_ours: Whether it is the turn of our callbacks, or of all others.
            again: Whether those get theirs, too, who were given it.
        """
        states: dict[str, Any] = self.state["callbacks"]
        for name, callback in callbacks.items():
            is_ours = link_of(callback) is not None
            fresh = again or name not in self._given
            if name in states and fresh and is_ours == of_ours:
                # What a user's own callback raises is the user's.
                with used(f"the state of {name}", self.path) if of_ours else nullcontext():
                    callback.load_state_dict(states[name])
                self._given.add(name)

    def give_snapshots(
        self,
        callbacks: Mapping[str, Any],
        folder: BackupFolder | FollowedFolder | ShardedFolder,
        warn: Callable[[str], None],
    ) -> dict[int, dict[str, Place]]:
        """Give what was held in memory to those who held it.

        Returns:
            Where on disk the parts of each are, by its token.
        """
        found: dict[int, dict[str, Place]] = {}
        for name, snapshots in (self.state.get("held") or {}).items():
            if name not in callbacks or name in self._held_given:
                continue
            self._held_given.add(name)
            taken: dict[str, Held] = {}
            for called, places in snapshots.items():
                try:
                    parts = {part: folder.part(tuple(place)) for part, place in places.items()}
                except PeakholdError as error:
                    warn(f"BackupAndRestore lost what {name} held in memory ({called}): {error}")
                    continue
                if self._own:
                    from peakhold.backup.own import held_of  # of several workers alone

                    parts = {
                        part: held_of(self._own, name, called, part, tree)
                        for part, tree in parts.items()
                    }
                taken[called] = held = Held.of(parts)
                found[held.token] = {p: (int(w[0]), w[1]) for p, w in places.items()}
            link = link_of(callbacks[name])
            if taken and link is not None:
                link.participant.load_snapshots(taken)
        return found

    def lost(self) -> list[str]:
        """The names of those whose states nobody has taken."""
        return sorted(self.state["callbacks"].keys() - self._given)
