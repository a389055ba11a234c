"""`tf.data.Dataset`: its order is drawn again, from the seeds that it was made with.

`shuffle` takes its seeds when the data set is made (from `tf.random.set_seed`, or its own `seed=`),
and draws one more each time that an iterator begins to go through it: so an order hangs on how many
iterators came before, and the process's generators have no part in it. Earlier epochs are begun and
nothing is taken of them; behind `repeat`, which begins anew inside an epoch, they are gone through.
This epoch's first batches are made again and thrown away, by TensorFlow's threads: `skip` would do
the same work, and later, when the generators of now are put back already, from which a
`tf.numpy_function` may draw.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

from peakhold.run.sources.position import PlacedSource, replayed

__all__ = ["TensorFlowSource", "is_tensorflow_dataset"]


def is_tensorflow_dataset(loader: Any) -> bool:
    """Whether this is a `tf.data.Dataset`."""
    data = getattr(sys.modules.get("tensorflow"), "data", None)
    kind = getattr(data, "Dataset", None)
    return kind is not None and isinstance(loader, kind)


@final
class TensorFlowSource(PlacedSource):
    """A data set of TensorFlow's.

    Args:
        loader: The data set.
    """

    def __init__(self, loader: Any) -> None:
        stages = list(_stages(loader))
        self._repeats = any(type(one).__name__ == "_RepeatDataset" for one in stages)
        super().__init__(loader, tuple(_limits(loader, stages, repeats=self._repeats)))
        self._taken: list[int] = []

    @property
    def kind(self) -> str:
        """What people call it."""
        return "tf.data.Dataset"

    def _described(self) -> dict[str, Any]:
        return {**super()._described(), "element_spec": str(self._loader.element_spec)}

    def _told_of_epochs(self) -> tuple[Any, ...]:
        return ()

    def _leave(self) -> None:
        self._taken.append(self._place.count)

    def _fresh(self) -> Iterator[Any]:
        return iter(self._loader)

    def _behind(
        self, count: int, state: Mapping[str, Any], arrive: Callable[[], None]
    ) -> Iterator[Any]:
        self._go_through_earlier(state)
        batches = replayed(iter(self._loader), count)
        arrive()
        return batches

    def _carry(self, state: Mapping[str, Any]) -> None:
        self._go_through_earlier(state)
        self._go_through(state["batch"])

    def _go_through_earlier(self, state: Mapping[str, Any]) -> None:
        self._taken = [int(count) for count in state["own"]["taken"]]
        for count in self._taken:
            self._go_through(count)

    def _go_through(self, count: int) -> None:
        replayed(iter(self._loader), count if self._repeats else 0)

    def _own_state(self) -> dict[str, Any]:
        import numpy as np

        return {"taken": np.array(self._taken, np.int64)}


def _stages(loader: Any) -> Iterator[Any]:
    """A data set, and all that it is made of."""
    below = [loader]
    while below:
        one = below.pop()
        yield one
        below += one._inputs()


def _limits(loader: Any, stages: list[Any], *, repeats: bool) -> Iterator[str]:
    shuffles = [one for one in stages if type(one).__name__ == "_ShuffleDataset"]
    if any(int(one._seed) == 0 == int(one._seed2) for one in shuffles):
        yield (
            "shuffle() of a tf.data.Dataset that was made without a seed has another order in each "
            "process; call tf.random.set_seed or keras.utils.set_random_seed before it is made, or "
            "pass seed="
        )
    if loader.options().deterministic is False:
        yield "options().deterministic is False: elements come as they are ready, in no fixed order"
    if shuffles and repeats:
        yield (
            "repeat() behind shuffle(): earlier epochs are gone through again, which takes as long "
            "as making their batches did"
        )
