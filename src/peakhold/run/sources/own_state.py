"""What has a state of its own: a loader with `state_dict`, or an iterator with `get_state`.

`StatefulDataLoader` of torchdata, loaders of torchdata's nodes and streams of Hugging Face's keep
it on the loader: it is loaded, and the next `iter` goes on. Grain keeps it on the iterator. Both
know what their workers had; the random generators of the process are ours to put back, when the
iterator is made: what making it draws is behind `begun`, and before `now`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, final

from peakhold.run.sources.plain import from_plain_state, to_plain_state
from peakhold.run.sources.position import PlacedSource

__all__ = ["StatefulSource", "draws_its_order", "is_stateful", "load_into", "state_of"]

_PAIRS: Final = (("state_dict", "load_state_dict"), ("get_state", "set_state"))


def _pair_of(one: Any) -> tuple[str, str] | None:
    for get, put in _PAIRS:
        if callable(getattr(type(one), get, None)) and callable(getattr(type(one), put, None)):
            return get, put
    return None


def is_stateful(one: Any) -> bool:
    """Whether a loader or an iterator tells where it is, and can be told."""
    return _pair_of(one) is not None


def state_of(one: Any) -> Any:
    """Where it is, as a tree that a store can save."""
    get, _ = _pair_of(one) or ("", "")
    return to_plain_state(getattr(one, get)(), one)


def load_into(one: Any, plain: Any) -> None:
    """Tell it where it was."""
    _, put = _pair_of(one) or ("", "")
    getattr(one, put)(from_plain_state(plain))


def draws_its_order(loader: Any) -> bool:
    """Whether a `StatefulDataLoader` has a sampler of a user's, whose state it cannot keep.

    It makes a new iterator of such a sampler and takes as many indices of it, from generators that
    have moved on: other rows.
    """
    torchdata = sys.modules.get("torchdata.stateful_dataloader")
    if torchdata is None or not isinstance(loader, torchdata.StatefulDataLoader):
        return False
    return any(
        sampler is not None
        and type(sampler).__module__.partition(".")[0] not in {"torch", "torchdata"}
        and not is_stateful(sampler)
        for sampler in (loader.sampler, loader.batch_sampler)
    )


@final
class StatefulSource(PlacedSource):
    """A loader that has a state.

    Args:
        loader: The loader.
    """

    def __init__(self, loader: Any) -> None:
        self._workers = int(getattr(loader, "num_workers", 0) or 0)
        limits = []
        if self._workers:
            limits.append(
                "what the workers draw at random themselves (augmentation) is drawn anew inside an "
                "epoch, unless the data set's own state_dict holds it"
            )
        super().__init__(loader, tuple(limits))

    @property
    def kind(self) -> str:
        """Its class."""
        return type(self._loader).__name__

    def _described(self) -> dict[str, Any]:
        return {
            **super()._described(),
            "batch_size": getattr(self._loader, "batch_size", None),
            "num_workers": self._workers,  # its state has one for each
        }

    def _told_of_epochs(self) -> tuple[Any, ...]:
        loader = self._loader
        batch_sampler = getattr(loader, "batch_sampler", None)
        told = (
            loader,
            getattr(loader, "sampler", None),
            batch_sampler,
            getattr(batch_sampler, "sampler", None),
            getattr(loader, "dataset", None),
        )
        return tuple({id(one): one for one in told}.values())

    def _fresh(self) -> Iterator[Any]:
        batches: Iterator[Any] = iter(self._loader)
        return batches

    def _behind(
        self, count: int, state: Mapping[str, Any], arrive: Callable[[], None]
    ) -> Iterator[Any]:
        load_into(self._loader, state["own"]["loader"])
        batches = self._fresh()
        arrive()
        return batches

    def _carry(self, state: Mapping[str, Any]) -> None:
        if state["own"]["loader"] is None:
            return
        # The state of an epoch that is over makes its iterator, sees that, and makes another: both
        # draw. This one is thrown away, and the next epoch makes one, as in the unbroken run.
        process = self._generators.state()
        load_into(self._loader, state["own"]["loader"])
        self._fresh()
        self._generators.put_back(process)

    def _has_own_state(self) -> bool:
        return True

    def _own_state(self) -> dict[str, Any]:
        # Before its first iterator, asking would make one, and draw.
        is_begun = self._place.epoch >= 0
        return {"loader": state_of(self._loader) if is_begun else None}
