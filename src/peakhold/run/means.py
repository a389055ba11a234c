"""The metrics of an epoch, out of what its batches log; no batch waits for a device.

Rules of this file:

1. What is logged is the loop's: it is copied before `add` returns (`device_values`).
2. A mean is a sum of products (value times weight) in float64, in the order of batches, over the
   sum of the weights. Nobody who reads it, saves it or goes on from it changes a bit of it: values
   come to the sum one after the other, whenever that is.
3. Memory does not grow with the batches: a block becomes numbers once the device is past it. Where
   that cannot be known without waiting (a GPU of PyTorch or TensorFlow), a value costs its bytes.
4. Values that are not finite are values. A weight of 0 is of no data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from peakhold._core.aggregates import Aggregated, Max, Mean, Min, Sum
from peakhold.errors import InvalidArgumentError, NotAScalarError
from peakhold.run.device_values import NotOneNumberError, Tape

__all__ = ["Means"]

_KINDS: Final[Mapping[str, type[Aggregated]]] = {
    kind.kind: kind for kind in (Mean, Sum, Min, Max)
}  # of `peakhold.distributed`; a class may not be asked for by a state's own word


class _Metric:
    """One name: what has been summed, and what still lies on a device."""

    __slots__ = ("_tape", "kind", "name", "total", "weight")

    def __init__(self, name: str, kind: str, total: float, weight: float) -> None:
        self.name, self.kind = name, kind
        self.total, self.weight = total, weight
        """Of a mean: the sum of products, and of weights. Else: the value so far, and how many."""
        self._tape = Tape()

    def add(self, value: Any, weight: float) -> None:
        given = self._tape.add(value, weight)
        if given is None:
            return
        if isinstance(given, float):
            if self.kind != "mean":
                self._sum((given,), (weight,))
            elif weight:
                self.total += given * weight
                self.weight += weight
            return
        for values, weights in given:
            self._sum(values, weights)

    def read(self) -> None:
        """Bring all that lies on a device to the sum; waits for it."""
        for values, weights in self._tape.rest():
            self._sum(values, weights)

    def _sum(self, values: Sequence[float], weights: Sequence[float]) -> None:
        total, weight = self.total, self.weight
        if self.kind == "mean":
            for value, one in zip(values, weights, strict=False):  # Ctrl-C may part the last two
                if one:
                    total += value * one
                    weight += one
        else:
            for value in values:
                total = _TOGETHER[self.kind](total, value) if weight else value
                weight += 1.0
        self.total, self.weight = total, weight

    def plain(self) -> list[Any]:
        """What has been summed. NaN has no sign: none would come back from a file."""
        return [
            self.name,
            self.kind,
            math.nan if math.isnan(self.total) else self.total,
            self.weight,
        ]

    def number(self) -> Aggregated:
        """The value of the epoch so far, and how it is put together with other workers'."""
        _, kind, total, weight = self.plain()
        if kind != "mean":
            return _KINDS[kind](total)
        return Mean(total / weight if weight else math.nan, weight)


def _smaller(one: float, other: float) -> float:
    return one if one <= other or math.isnan(one) else other


def _larger(one: float, other: float) -> float:
    return one if one >= other or math.isnan(one) else other


_TOGETHER: Final = {"sum": float.__add__, "min": _smaller, "max": _larger}


class Means:
    """The means of an epoch, weighted; other ways to put numbers together where they say so.

    Example:
        >>> means = Means()
        >>> means.add({"loss": 1.0}, weight=3)
        >>> means.add({"loss": 2.0, "seen": Sum(5)}, weight=1)
        >>> means.read()
        {'loss': 1.25, 'seen': 5.0}
    """

    def __init__(self) -> None:
        self._metrics: dict[str, _Metric] = {}

    def add(self, values: Mapping[str, Any], weight: float = 1.0) -> None:
        """Take what a batch has logged. Does not wait for a device.

        Args:
            values: By name: one number, on any device. `Sum`, `Min` and `Max` of
                `peakhold.distributed` are put together as they say over the batches, too; a
                `Mean` has a weight of its own.
            weight: How much a batch counts: its samples.

        Raises:
            NotAScalarError: For a value that is not one number.
            InvalidArgumentError: For a weight that is negative or not finite; for a name that is
                logged as a mean and as a sum.
        """
        if not 0.0 <= weight < math.inf:
            raise InvalidArgumentError.for_argument("weight", weight, "a number, 0 or more")
        metrics = self._metrics
        for name, value in values.items():
            metric, own = metrics.get(name), weight
            if metric is None or metric.kind != "mean" or isinstance(value, Aggregated):
                metric, own = self._told(name, value, weight)
            try:
                metric.add(value, own)
            except NotOneNumberError as why:
                raise NotAScalarError.for_metric(name, value, hint=why.hint) from None

    def _told(self, name: str, value: Any, weight: float) -> tuple[_Metric, float]:
        kind = value.kind if isinstance(value, Aggregated) else "mean"
        metric = self._metrics.setdefault(name, _Metric(name, kind, 0.0, 0.0))
        if metric.kind != kind:
            raise InvalidArgumentError.for_argument(
                name,
                sorted({metric.kind, kind}),
                "one way to put a metric together in all batches",
                hint="log it as Mean, Sum, Min or Max in each of them.",
            )
        return metric, value.weight if isinstance(value, Mean) else weight

    def read(self) -> dict[str, float]:
        """The value of each name so far; waits for the device.

        A mean of no data is NaN.
        """
        return {name: float(value) for name, value in self.parts().items()}

    def parts(self) -> dict[str, Aggregated]:
        """As `read`, each with how it is put together with that of other workers, as `Mean`."""
        for metric in self._metrics.values():
            metric.read()
        return {name: metric.number() for name, metric in self._metrics.items()}

    def state(self) -> dict[str, Any]:
        """What has been summed, in plain numbers; waits for the device.

        Means that are given it go on to the same bits.
        """
        for metric in self._metrics.values():
            metric.read()
        return {"metrics": [metric.plain() for metric in self._metrics.values()]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` has told; what was added before is forgotten."""
        self._metrics = {
            str(name): _Metric(str(name), str(kind), float(total), float(weight))
            for name, kind, total, weight in state["metrics"]
        }

    def clear(self) -> None:
        """Begin a new epoch: nothing has been logged."""
        self._metrics = {}
