"""Moments from rows of numbers, for tests of policies."""

from peakhold._core.moments import Moment, Position, Spent
from peakhold._core.observation import Event


def epoch_end(epoch, metrics, **fields):
    """The end of an epoch; a metric of None was not logged."""
    logged = {name: value for name, value in metrics.items() if value is not None}
    return Moment(Event.EPOCH_END, Position(epoch), logged, **fields)


def epochs(rows, *, length=None, start=0):
    """A run by hand, without train begin: the moments of its epochs.

    Args:
        rows: For each epoch, the metrics by name.
        length: Steps and seconds of an epoch; None if nobody counts.
        start: Index of the first epoch.
    """
    step = 0 if length is None else length
    for n, metrics in enumerate(rows):
        epoch = start + n
        yield Moment(Event.EPOCH_BEGIN, Position(epoch), spent=Spent(n * step, n * step))
        yield epoch_end(epoch, metrics, spent=Spent((n + 1) * step, (n + 1) * step))
