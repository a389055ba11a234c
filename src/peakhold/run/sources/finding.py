"""Which kind of source knows a loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from peakhold.errors import InvalidArgumentError
from peakhold.run.sources.contract import Source
from peakhold.run.sources.iterables import IterableSource, OneShotSource
from peakhold.run.sources.own_state import StatefulSource, draws_its_order, is_stateful
from peakhold.run.sources.sequences import SequenceSource, is_sequence
from peakhold.run.sources.tf_dataset import TensorFlowSource, is_tensorflow_dataset
from peakhold.run.sources.torch_loader import TorchSource, is_torch_loader

__all__ = ["source_for"]


def source_for(loader: Any, *, replay: bool = False) -> Source:
    """The source of a loader's batches.

    Args:
        loader: A `DataLoader`, an array, a list, any iterable, or an iterator.
        replay: Make the first batches of an epoch again, and throw them away, where they could be
            skipped: exact also for what the workers of a `DataLoader` draw at random.

    Returns:
        Where its batches come from, as long as this loader is used.

    Raises:
        InvalidArgumentError: If it cannot be iterated over.

    Example:
        >>> source = source_for(["a", "b", "c", "d"])
        >>> batches = source.begin(epoch=0)
        >>> next(batches), next(batches)
        ('a', 'b')
        >>> list(source_for(["a", "b", "c", "d"]).go_on(source.state(), epoch=0))
        ['c', 'd']
    """
    if isinstance(loader, Iterator):
        return OneShotSource(loader)
    has_state = hasattr(type(loader), "__iter__") and is_stateful(loader)
    if has_state and not replay and not draws_its_order(loader):
        return StatefulSource(loader)
    if is_torch_loader(loader):
        return TorchSource(loader, replay=replay)
    if is_tensorflow_dataset(loader):
        return TensorFlowSource(loader)
    if is_sequence(loader):
        return SequenceSource(loader)
    if not hasattr(type(loader), "__iter__"):
        raise InvalidArgumentError.for_argument(
            "loader",
            loader,
            "batches: a DataLoader, a tf.data.Dataset, an array, a list, or anything else that "
            "`for` goes through",
            hint="of a data set whose rows are not in batches, make a loader first.",
        )
    return IterableSource(loader)
