"""One value of a metric out of those of all workers.

Problem. Each worker has seen its own part of the data, and its metrics say how well the model does
there. Whoever stops or saves by them stops and saves otherwise than its fellows.

Solution. A number in the logs may say how it is to be put together: `Mean` with a weight, `Sum`,
`Min`, `Max`. A plain number is a mean of weight 1. Each is a float, and counts as one wherever
nobody asks for more.

Rules of this file:

1. The result does not depend on the order of the workers: sums are exact (`math.fsum`).
2. What is equal on all workers is that value, bit for bit, unless it is a `Sum`.
3. NaN on one worker is NaN for all. A mean of weight 0 is of no data, and counts for nothing.
4. A metric that only some have is that of those who have it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Self, final

from peakhold.errors import InvalidArgumentError

__all__ = ["Max", "Mean", "Min", "Sum", "aggregate", "metric_from_json", "metric_to_json"]


class Aggregated(float):
    """A number that says how it is put together with those of other workers."""

    __slots__ = ()
    kind: ClassVar[str]

    def __new__(cls, value: Any) -> Self:
        detach = getattr(value, "detach", None)  # torch warns of a number taken from a graph
        return super().__new__(cls, value if detach is None else detach())


@final
class Mean(Aggregated):
    """A mean over some of the data; the mean over all is weighted by how much that was.

    Args:
        value: The mean: a number, or a 0-d array or tensor of any framework (which is waited for).
        weight: Over how many samples; at least 0. Of none it is NaN.

    Raises:
        InvalidArgumentError: For a weight below 0, or one that is no finite number.

    Example:
        >>> loss = Mean(0.25, weight=640)
        >>> loss + 1, loss.weight
        (1.25, 640.0)
    """

    __slots__ = ("weight",)
    kind = "mean"
    weight: float

    def __new__(cls, value: Any, weight: Any = 1.0) -> Self:
        try:
            samples = float(weight)
        except (TypeError, ValueError, OverflowError):
            samples = math.nan
        if not 0.0 <= samples < math.inf:
            raise InvalidArgumentError.for_argument(
                "weight",
                weight,
                "a number of samples, 0 or more",
                hint="pass how many samples the mean is over: Mean(loss, weight=640).",
            )
        number = super().__new__(cls, value if samples else math.nan)
        number.weight = samples
        return number

    def __getnewargs__(self) -> tuple[float, float]:  # type: ignore[override]
        return float(self), self.weight


@final
class Sum(Aggregated):
    """A sum over some of the data; over all it is the sum of the workers' sums.

    Args:
        value: A number, or a 0-d array or tensor.

    Example:
        >>> Sum(3) + 1
        4.0
    """

    __slots__ = ()
    kind = "sum"


@final
class Min(Aggregated):
    """A minimum over some of the data.

    Args:
        value: A number, or a 0-d array or tensor.

    Example:
        >>> Min(0.5) < 1
        True
    """

    __slots__ = ()
    kind = "min"


@final
class Max(Aggregated):
    """A maximum over some of the data.

    Args:
        value: A number, or a 0-d array or tensor.

    Example:
        >>> Max(0.5) < 1
        True
    """

    __slots__ = ()
    kind = "max"


Part = tuple[str, float, float]
"""How it is put together, its value, its weight."""


def part_of(value: float) -> Part:
    """What a worker tells of one of its metrics.

    Example:
        >>> part_of(0.5), part_of(Mean(0.5, 3)), part_of(Sum(2))
        (('mean', 0.5, 1.0), ('mean', 0.5, 3.0), ('sum', 2.0, 1.0))
    """
    kind = value.kind if isinstance(value, Aggregated) else "mean"
    return kind, float(value), value.weight if isinstance(value, Mean) else 1.0


def metric_to_json(value: float) -> Any:
    """A metric for others: the number, or how it is put together with it."""
    kind, number, weight = part_of(value)
    return number if (kind, weight) == ("mean", 1.0) else [kind, number, weight]


def metric_from_json(plain: Any) -> Part:
    """What another worker told of one of its metrics."""
    if isinstance(plain, list):
        kind, number, weight = plain
        return str(kind), float(number), float(weight)
    return "mean", float(plain), 1.0


def aggregate(reports: Sequence[Mapping[str, Part]]) -> tuple[dict[str, float], list[str]]:
    """The metrics of all workers, in one.

    Args:
        reports: By worker, what each has measured, by name.

    Returns:
        The metrics, and the names of those that not all workers have.

    Raises:
        InvalidArgumentError: If workers put one metric together in different ways.

    Example:
        >>> first, second = {"loss": part_of(Mean(0.5, 3))}, {"loss": part_of(0.1), "n": part_of(1)}
        >>> aggregate([first, second])
        ({'loss': 0.4, 'n': 1.0}, ['n'])
    """
    names = dict.fromkeys(name for report in reports for name in report)
    metrics, partial = {}, []
    for name in names:
        parts = [report[name] for report in reports if name in report]
        if len(parts) < len(reports):
            partial.append(name)
        kinds = {kind for kind, _, _ in parts}
        if len(kinds) > 1:
            raise InvalidArgumentError.for_argument(
                name,
                sorted(kinds),
                "one way to put a metric together on all workers",
                hint="log it as Mean, Sum, Min or Max on each of them.",
            )
        metrics[name] = _together(kinds.pop(), [(value, weight) for _, value, weight in parts])
    return metrics, partial


def _together(kind: str, parts: Sequence[tuple[float, float]]) -> float:
    if kind == "mean":
        parts = [part for part in parts if part[1]]
        if not parts:
            return math.nan
    values = [value for value, _ in parts]
    if any(map(math.isnan, values)):
        return math.nan
    if kind == "sum":
        return _sum(values)
    if kind in _EXTREMES:
        return _EXTREMES[kind](values)
    if len({(value, math.copysign(1, value)) for value in values}) == 1:
        return values[0]
    return _sum(value * weight for value, weight in parts) / math.fsum(w for _, w in parts)


_EXTREMES: Final[Mapping[str, Callable[[Iterable[float]], float]]] = {"min": min, "max": max}


def _sum(values: Iterable[float]) -> float:
    """The exact sum; `fsum` raises where infinities meet, or a finite sum is none any more."""
    values = list(values)
    infinite = {value for value in values if math.isinf(value)}
    if infinite:
        return infinite.pop() if len(infinite) == 1 else math.nan
    try:
        return math.fsum(values)
    except OverflowError:
        return sum(values)
