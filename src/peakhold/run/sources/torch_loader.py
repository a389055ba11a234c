"""`DataLoader` of PyTorch: its order is drawn again, and skipped in the sampler; nothing is loaded.

Rules of this file:

1. An epoch that is begun is `iter(loader)`, and nothing of ours is in it.
2. One that goes on is the same `iter(loader)`, from the generators of the epoch's begin, with its
   sampler, for that moment, behind `_Skipping`. Torch calls `iter` on the sampler once without
   workers and twice with them, draws `base_seed` after the first, and asks for the first indices
   when the first batch is wanted, or, with workers, at once. All of that happens again as it did;
   only the first indices are taken from the sampler and dropped where it is asked for the first
   time.
3. The generators of now are put back where everything is drawn that the batches before drew: behind
   the indices that are dropped, before those of the next batch. With workers the sampler is by then
   as many batches ahead of the loop as it was (it may draw from `generator=` as it goes).
   Workers that persist make it one iterator for all epochs, and only the first draws `base_seed`:
   where the unbroken run reset it, this draw is undone.
4. What is random in the workers themselves is not drawn again by this: a worker begins with its
   seed. `replay=True` has them load the first batches once more, and throws these away.

A loader whose class has an `__iter__` of its own is gone through again: nobody knows what it does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

from peakhold.run.sources.own_state import is_stateful
from peakhold.run.sources.position import PlacedSource, replayed

__all__ = ["TorchSource", "is_torch_loader"]


def is_torch_loader(loader: Any) -> bool:
    """Whether this is a `torch.utils.data.DataLoader`."""
    torch = sys.modules.get("torch.utils.data")
    return torch is not None and isinstance(loader, torch.DataLoader)


class _Skipping:
    """A sampler whose first indices, when it is asked for them for the first time, are dropped.

    Args:
        sampler: The loader's own.
        count: How many.
        reset: Where the iterator is made anew and was only reset in the unbroken run: puts back the
            generators of the epoch's begin, behind what making it drew.
    """

    def __init__(self, sampler: Any, count: int, reset: Callable[[], None] | None) -> None:
        self._sampler = sampler
        self._count = count
        self._reset = reset
        self._is_first = True
        self._newest: _Indices | None = None

    def __iter__(self) -> Iterator[Any]:
        is_first, self._is_first = self._is_first, False
        if self._reset is not None:
            if is_first:  # which a reset does not do
                return iter(())
            self._reset()
        # Now, not when the first index is wanted: a sampler may draw when its iterator is made.
        self._newest = _Indices(iter(self._sampler), self)
        return self._newest

    def __len__(self) -> int:
        return len(self._sampler)

    def skip_on(self, indices: Iterator[Any]) -> None:
        """Drop the first ones, if that is not done."""
        count, self._count = self._count, 0
        for _ in range(count):
            next(indices, None)

    def skip(self) -> None:
        """Drop them now, if nobody has asked for any."""
        if self._newest is not None:
            self.skip_on(self._newest.indices)
            self._newest = None


class _Indices(Iterator[Any]):
    def __init__(self, indices: Iterator[Any], skipping: _Skipping) -> None:
        self.indices, self._skipping = indices, skipping

    def __next__(self) -> Any:
        self._skipping.skip_on(self.indices)
        return next(self.indices)


@final
class TorchSource(PlacedSource):
    """A loader of PyTorch.

    Args:
        loader: The loader.
        replay: Load the first batches again, and throw them away.
    """

    def __init__(self, loader: Any, *, replay: bool) -> None:
        data: Any = sys.modules["torch.utils.data"]
        self._is_iterable = isinstance(loader.dataset, data.IterableDataset)
        self._has_own_iter = type(loader).__iter__ is not data.DataLoader.__iter__
        self._replays = replay or self._is_iterable or self._has_own_iter
        super().__init__(loader, tuple(self._limits(loader)))
        self._was_reset = False
        self._makes_anew = False

    def _limits(self, loader: Any) -> Iterator[str]:
        if self._is_iterable or self._has_own_iter:
            why = (
                "its data set is an IterableDataset" if self._is_iterable else "__iter__ is its own"
            )
            yield (
                f"{type(loader).__name__} is gone through again from the epoch's begin, which "
                f"takes as long as loading those batches did: {why}"
            )
        if loader.num_workers and loader.persistent_workers:
            yield (
                "persistent_workers=True: what the workers draw at random goes on from earlier "
                "epochs and cannot be brought back, not even at an epoch's border; exact only if "
                "they draw nothing"
            )
        elif loader.num_workers and not self._replays:
            yield (
                "what the workers draw at random themselves (augmentation) is drawn anew inside an "
                "epoch; pass replay=True to load and throw away what was seen, which is exact"
            )
        if loader.num_workers and not getattr(loader, "in_order", True):
            yield "in_order=False: batches come as the workers are ready, in no order to go on in"

    @property
    def kind(self) -> str:
        """Its class; a `StatefulDataLoader` comes here where it cannot go by its own state."""
        name = type(self._loader).__name__
        return f"{name}, gone through again" if is_stateful(self._loader) else name

    @property
    def n_batches(self) -> int | None:
        """Batches of an epoch; None if the data set has no length."""
        if not self._is_iterable:
            return super().n_batches
        # torch remembers that it was asked, and warns if more come.
        called = self._loader._IterableDataset_len_called
        try:
            return super().n_batches
        finally:
            self._loader._IterableDataset_len_called = called

    def _described(self) -> dict[str, Any]:
        batch_sampler = self._loader.batch_sampler
        return {
            **super()._described(),
            "batch_size": self._loader.batch_size,
            "drop_last": self._loader.drop_last,
            "sampler": type(self._loader.sampler).__name__,
            "batch_sampler": type(batch_sampler).__name__ if batch_sampler is not None else None,
        }

    def _told_of_epochs(self) -> tuple[Any, ...]:
        loader = self._loader
        inner = getattr(loader.batch_sampler, "sampler", None)
        told = {
            id(one): one
            for one in (loader, loader.sampler, loader.batch_sampler, inner, loader.dataset)
        }
        return tuple(told.values())

    def _fresh(self) -> Iterator[Any]:
        makes_anew, self._makes_anew = self._makes_anew, False
        self._was_reset = self._persists() or makes_anew
        if makes_anew and not self._persists():
            return self._iterator_behind(0, self._place.begun)
        return iter(self._loader)

    def _behind(
        self, count: int, state: Mapping[str, Any], arrive: Callable[[], None]
    ) -> Iterator[Any]:
        self._was_reset = state["own"]["was_reset"]
        begun = state["begun"] if self._was_reset and not self._persists() else None
        if self._replays:
            batches = iter(self._loader) if begun is None else self._iterator_behind(0, begun)
            replayed(batches, count)
        else:
            batches = self._iterator_behind(count, begun)
        arrive()
        return batches

    def _carry(self, state: Mapping[str, Any]) -> None:
        self._makes_anew = state["own"]["persists"] and not self._persists()

    def _own_state(self) -> dict[str, Any]:
        return {"was_reset": self._was_reset, "persists": self._persists()}

    def _persists(self) -> bool:
        """Whether the iterator with its workers is there already, and is reset."""
        loader = self._loader
        return bool(
            loader.num_workers and loader.persistent_workers and loader._iterator is not None
        )

    def _iterator_behind(self, count: int, begun: Mapping[str, Any] | None) -> Iterator[Any]:
        """What `iter(loader)` makes while its sampler is behind ours."""
        name = "sampler" if self._loader.batch_sampler is None else "batch_sampler"
        sampler = getattr(self._loader, name)
        reset = None if begun is None else lambda: self._generators.put_back(begun)
        skipping = _Skipping(sampler, count, reset)
        self._put_sampler(name, skipping)
        try:
            batches: Iterator[Any] = iter(self._loader)
        finally:
            self._put_sampler(name, sampler)
        skipping.skip()
        return batches

    def _put_sampler(self, name: str, sampler: Any) -> None:
        # Not by its name: the class refuses that, for users.
        vars(self._loader)[name] = sampler
        if self._persists():
            self._loader._iterator._index_sampler = sampler
