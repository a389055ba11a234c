"""Snapshots that the callbacks of one run share: one pool of host buffers.

Rules for this file:

1. A part is copied once for each moment, whoever wants it. What was taken is counted: `share()` is
   one more reference, `release()` one less; after the last, the memory is used again.
2. Nothing is written into memory that somebody holds: a candidate for the best never overwrites the
   only good snapshot. Memory that was given away never comes back.
3. Each callback says on train begin what it will hold (`Participant.buffers_needed`); that much is
   allocated and touched before the first batch, or as soon as the model is built. More is allocated
   when it is needed, and kept.
4. After the run only what is still held stays. A callback that is garbage-collected releases what
   it held; a copy or a pickle of a snapshot has arrays of its own and no pool.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, final

from peakhold import process
from peakhold.errors import HostError
from peakhold.host.contract import WEIGHTS, HostState
from peakhold.host.finite import nonfinite_names
from peakhold.snapshots.finite_check import FiniteCheck, start_checks
from peakhold.trees import Walked, leaf_list, map_tree

if TYPE_CHECKING:
    from peakhold.snapshots.part_buffer import PartBuffer

__all__ = ["Held", "SnapshotPool", "held_weakly"]

_tokens = itertools.count(1)


class _Copy:
    """One part at one moment."""

    def __init__(self, part: str, buffer: PartBuffer, pool: SnapshotPool | None) -> None:
        self.part, self.buffer, self.pool = part, buffer, pool
        self.users = 0
        self.given = False
        self.check: FiniteCheck | None = None


@final
class Held:
    """Copies of named parts of the model, of one moment.

    It is one reference; `share()` counts another one to the same object.
    """

    def __init__(self, pool: SnapshotPool | None, token: int, copies: Mapping[str, _Copy]) -> None:
        self._copies = dict(copies)
        self._references = 0
        self._lock = process.lock_free_in_child() if pool is None else pool.lock
        self.token = token
        """Equal for snapshots of one moment."""
        self.share()

    @classmethod
    def of(cls, parts: Mapping[str, Any]) -> Held:
        """A snapshot that belongs to no pool: from a file, or from another process.

        Args:
            parts: Tree of arrays by part; nobody may write to them any more.
        """
        copies = {}
        for part, tree in parts.items():
            buffer = _buffer_for(part)
            buffer.tree = tree
            copies[part] = _Copy(part, buffer, None)
        return cls(None, next(_tokens), copies)

    @staticmethod
    def new_token() -> int:
        """A token that no other snapshot has."""
        return next(_tokens)

    @property
    def parts(self) -> dict[str, Any]:
        """Tree of arrays by part; nobody writes to them while a reference is held."""
        return {part: copy.buffer.tree for part, copy in self._copies.items()}

    def share(self) -> Held:
        """One more reference."""
        with self._lock:
            self._references += 1
            for copy in self._copies.values():
                copy.users += 1
        return self

    def release(self) -> None:
        """One reference less; the memory is used again after the last. Safe in any thread."""
        self._release(1)

    def _release(self, count: int) -> None:
        with self._lock:
            count = min(count, self._references)
            self._references -= count
            for copy in self._copies.values():
                copy.users -= count
                if copy.users == 0 and count and copy.pool is not None:
                    copy.pool._take_back(copy)
            if self._references == 0:
                self._copies = {}

    def __del__(self) -> None:
        self._release(self._references)

    def __reduce__(self) -> Any:
        own = {part: map_tree(tree, _own) for part, tree in self.parts.items()}
        return Held.of, (own,)

    def restore(self, host: HostState) -> None:
        """Put the parts back into the model."""
        host.restore(self.parts)

    def start_check(self, parts: Iterable[str] = (WEIGHTS,)) -> None:
        """Begin to look for NaN and infinity in another thread; ask with `nonfinite()`."""
        start_checks(self._checks(parts))

    def nonfinite(self, parts: Iterable[str] = (WEIGHTS,)) -> frozenset[str]:
        """Names of arrays in these parts that hold NaN or infinity; waits for the check."""
        return frozenset().union(*[check.result() for check in self._checks(parts)])

    def _checks(self, parts: Iterable[str]) -> list[FiniteCheck]:
        copies = [self._copies[part] for part in parts if part in self._copies]
        unchecked = [copy for copy in copies if copy.check is None]
        named = iter(_named(unchecked))  # here, in the thread that trains
        checks = []
        for copy in copies:
            if copy.check is None:
                exempt = frozenset() if copy.pool is None else copy.pool.exempt
                copy.check = FiniteCheck(partial(nonfinite_names, next(named), exempt))
            checks.append(copy.check)
        return checks

    def give_away(self, part: str) -> Any:
        """The tree of a part, whose arrays nobody of us will ever write to again."""
        copy = self._copies[part]
        copy.given = True
        return copy.buffer.writable()


def _buffer_for(part: str) -> PartBuffer:
    from peakhold.snapshots.part_buffer import (
        PartBuffer,  # NumPy is imported when there is a snapshot
    )

    return PartBuffer(part)


def _named(copies: list[_Copy]) -> list[list[tuple[str, Any]]]:
    """Name and value of each array, as the model calls it, or by its number without one."""
    pools = {copy.pool for copy in copies}
    if None in pools:
        trees = [copy.buffer.tree for copy in copies]
        return [[(str(n), leaf) for n, leaf in enumerate(leaf_list(tree))] for tree in trees]
    hosts = {pool: pool.host for pool in pools if pool is not None}
    named = []
    for copy in copies:
        if copy.pool is not None:
            host = hosts[copy.pool]
            named.append(copy.buffer.named(host))
    return named


def _own(leaf: Any) -> Any:
    if hasattr(leaf, "detach"):
        return leaf.detach().clone()
    return leaf.copy() if hasattr(leaf, "__array__") else leaf


@final
class SnapshotPool:
    """The host memory of one run's snapshots.

    Args:
        host_of: The host of the run.
    """

    def __init__(self, host_of: Callable[[], HostState]) -> None:
        self._host_of = host_of
        # A garbage collection inside may release something, in a forked child, too.
        self.lock = process.lock_free_in_child()
        self.budget: int | None = None
        """Bytes that all callbacks together may hold, or None."""
        self.is_stale = False
        """Whether the model may have changed since the last copy: what is taken next is new."""
        self._token = next(_tokens)
        self._taken: dict[str, _Copy] = {}
        self._free: dict[str, list[PartBuffer]] = {}
        self._buffers: weakref.WeakSet[PartBuffer] = weakref.WeakSet()
        self._booked: dict[str, int] = {}
        self._booked_extra = 0
        self._unprepared: set[str] = set()
        self._closed = False
        self.exempt: frozenset[str] = frozenset()
        """Names of arrays that held NaN or infinity when training began: masks and their like. No
        check looks at them."""
        self._is_exempt_known = False

    def look_for_exempt(self) -> frozenset[str]:
        """Fill `exempt`, once in a run; to be called before training by whoever will check."""
        if not self._is_exempt_known:
            self._is_exempt_known, self.exempt = True, self.host.nonfinite()
        return self.exempt

    def nonfinite_in(self, parts: dict[str, Any]) -> frozenset[str]:
        """Names of weights among borrowed parts that hold NaN or infinity, and did not before."""
        return self.host.nonfinite_in(parts) - self.exempt

    @property
    def host(self) -> HostState:
        """The model."""
        return self._host_of()

    @property
    def nbytes(self) -> int:
        """Bytes of host memory held now, in use or not; what was given away is not ours."""
        with self.lock:
            return sum(buffer.nbytes for buffer in self._buffers)

    @property
    def n_allocations(self) -> int:
        """How often the buffers that are held now were allocated."""
        with self.lock:
            return sum(buffer.allocated for buffer in self._buffers)

    # Before training

    def affordable(self, parts: Iterable[str], copies: int, extra: int = 0) -> bool:
        """Whether so many copies fit into the memory budget, beside what others have booked.

        To be asked in `buffers_needed`, which books what it returns.

        Args:
            parts: The parts of each copy.
            copies: How many are held at a time, the one that is being taken included.
            extra: Further bytes of host memory (a shadow model). At least 0.
        """
        if self.budget is None:
            return True
        parts = list(parts)
        booked = {part: self._booked.get(part, 0) for part in {*self._booked, *parts}}
        for part in parts:
            booked[part] = _together(booked[part], copies)
        sizes = self._sizes(booked)
        needed = sum(sizes[part] * count for part, count in booked.items())
        return needed + self._booked_extra + extra <= self.budget

    def is_over_budget(self) -> bool:
        """Whether more is booked than may be held: seen once the model is built."""
        return not self.affordable((), 0)

    def prepare(self, counts: Mapping[str, int], extra: int = 0) -> None:
        """Book so many buffers of each part, and allocate and touch them.

        Args:
            counts: Copies of each part that are held at a time, the one being taken included: what
                two callbacks take at one moment is one copy.
            extra: Further bytes that the budget has to know of.
        """
        self._booked_extra += extra
        for part, count in counts.items():
            self._booked[part] = _together(self._booked.get(part, 0), count)
            self._unprepared.add(part)
        self._allocate_booked()

    def adopt(self, held: Held) -> None:
        """Make the memory of an earlier run's snapshot ours once it is released."""
        with self.lock:
            for copy in held._copies.values():
                if copy.pool is not None and copy.pool is not self and not copy.given:
                    copy.pool = self
                    self._buffers.add(copy.buffer)

    def _sizes(self, parts: Iterable[str]) -> dict[str, int]:
        """Bytes of each part; 0 while the model is not built."""
        from peakhold.snapshots.part_buffer import tree_bytes

        parts = list(parts)
        live = self.host.borrow(parts) if self.host.ensure_built(parts) else {}
        return {part: tree_bytes(live.get(part)) for part in parts}

    def _allocate_booked(self) -> None:
        if not self._unprepared or not self.host.ensure_built(self._unprepared):
            return
        parts, self._unprepared = sorted(self._unprepared), set()
        live = self.host.borrow(parts)
        with contextlib.suppress(MemoryError):  # whoever takes a copy will hear of it
            for part in parts:
                with self.lock:
                    n_there = sum(1 for buffer in self._buffers if buffer.part == part)
                for _ in range(self._booked[part] - n_there):
                    buffer = self._new(part)
                    buffer.prepare(live[part])
                    with self.lock:
                        self._free.setdefault(part, []).append(buffer)

    def _new(self, part: str) -> PartBuffer:
        buffer = _buffer_for(part)
        with self.lock:
            self._buffers.add(buffer)
        return buffer

    # During training

    def take(self, parts: Iterable[str]) -> Held:
        """Copy parts of the model, or share what was copied at this moment already.

        Returns:
            One reference; `release()` it.

        Raises:
            MemoryError: If there is none for a copy; what is held stays.
        """
        parts = list(parts)
        if self.is_stale:
            self.is_stale, self._token, self._taken = False, next(_tokens), {}
            self._allocate_booked()
        missing = [part for part in parts if part not in self._taken]
        live = self.host.borrow(missing) if missing else {}
        if missing:
            self._copy(live, missing)
        with self.lock:
            copies = {part: self._taken[part] for part in parts}
            for part, copy in copies.items():
                free = self._free.get(part, [])
                if copy.users == 0 and copy.buffer in free:  # released in this very moment
                    free.remove(copy.buffer)
            return Held(self, self._token, copies)

    def _copy(self, live: Mapping[str, Any], parts: list[str]) -> None:
        from peakhold.snapshots.part_buffer import fill

        buffers = []
        for part in parts:
            with self.lock:
                free = self._free.get(part)
                buffer = free.pop() if free else None
            buffers.append(self._new(part) if buffer is None else buffer)
        fill(buffers, [live[part] for part in parts], live.walks if type(live) is Walked else None)
        for part, buffer in zip(parts, buffers, strict=True):
            self._taken[part] = _Copy(part, buffer, self)

    def _take_back(self, copy: _Copy) -> None:
        """Nobody holds this copy any more. The lock is held."""
        if copy.given or self._closed:
            self._buffers.discard(copy.buffer)
            return
        self._free.setdefault(copy.part, []).append(copy.buffer)

    def trim(self) -> None:
        """Let memory go that nobody holds now; what is taken later is allocated anew."""
        with self.lock:
            for free in self._free.values():
                for buffer in free:
                    self._buffers.discard(buffer)
            self._free, self._taken = {}, {}

    def close(self) -> None:
        """The run has ended: keep only what somebody holds."""
        with self.lock:
            self._closed = True
            self._unprepared = set()
            self.trim()


def _together(booked: int, more: int) -> int:
    """Buffers of a part for two callbacks.

    Each counts the copy that is being taken, and two that copy at the same moment share it: it is
    counted once.
    """
    return booked + more - 1 if booked and more else booked + more


def held_weakly(host: HostState) -> Callable[[], HostState]:
    """What gives a host as long as its run keeps it."""
    reference = weakref.ref(host)

    def get() -> HostState:
        known = reference()
        if known is None:
            raise HostError.lacks(
                "a snapshot", "the run it was taken in", None, hint="keep the callback."
            )
        return known

    return get
