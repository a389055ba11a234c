"""Which checkpoints to keep: pure functions from what there is to keep or drop.

Rules for this file:

1. A policy sees only `CheckpointInfo`s, which a store reads from manifests. It has no memory:
   after a crash, or in another process, the same list gives the same answer.
2. A checkpoint with non-finite values never takes the place of a finite one. Every policy ranks the
   finite ones among themselves as if the others were not there, so a run that turned to NaN cannot
   rotate the last good state away, however long it goes on.
3. Policies are joined with `|`: a checkpoint stays if any of them keeps it. None can overrule
   another, so "latest" and "best" are safe from each other's rule.
4. The newest commit is always kept, whatever the policies say: it is what a restart resumes from.
5. A rule that has nothing to go by (a metric that none has, epochs that nobody gave) drops nothing:
   it was misspelt, or what it goes by has yet to come. `missing` says so in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, final

from peakhold.errors import InvalidArgumentError

__all__ = [
    "CheckpointInfo",
    "KeepAny",
    "KeepBest",
    "KeepEvery",
    "KeepLast",
    "KeepPolicy",
    "keep",
    "missing",
]


@final
@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """What a policy may know of one committed checkpoint."""

    step: int
    """Steps done when the state was taken, at least 0."""
    commit: int
    """Running number of the commit: the larger, the newer. No two are equal."""
    epoch: int | None = None
    """0-based index of the epoch, if one was given."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Values at that step; NaN and infinities may be among them."""
    finite: bool = True
    """False if a tensor of the checkpoint holds NaN or an infinity."""
    refers_to: tuple[int, ...] = ()
    """Steps of other checkpoints that it needs."""

    @property
    def is_finite(self) -> bool:
        """True if neither tensors nor metrics hold NaN or an infinity."""
        return self.finite and all(math.isfinite(value) for value in self.metrics.values())


class KeepPolicy(Protocol):
    """What a retention policy must be able to answer."""

    @property
    def at_most(self) -> int | None:
        """How many checkpoints the policy keeps at most, or None if there is no bound."""

    def keeps(self, infos: Sequence[CheckpointInfo]) -> frozenset[int]:
        """Return the commit numbers to keep; `infos` may come in any order."""


class _Joinable:
    """`policy | policy`."""

    def __or__(self: KeepPolicy, other: KeepPolicy) -> KeepAny:
        return KeepAny(self, other)


def _count(name: str, value: object, hint: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidArgumentError.for_argument(name, value, "an int of at least 1", hint=hint)


def _finite_first(
    infos: Sequence[CheckpointInfo], pick: Callable[[Sequence[CheckpointInfo]], set[int]]
) -> frozenset[int]:
    """Apply `pick` to all and, apart from that, to the finite ones alone (rule 2)."""
    finite = [info for info in infos if info.is_finite]
    if len(finite) == len(infos):
        return frozenset(pick(infos))
    return frozenset(pick(infos) | pick(finite))


@final
@dataclass(frozen=True)
class KeepLast(_Joinable):
    """Keep the newest commits.

    If some of these have non-finite values, the newest finite ones stay as well.

    Args:
        n: How many to keep. At least 1.

    Raises:
        InvalidArgumentError: If `n` is not an int of at least 1.

    Example:
        >>> infos = [CheckpointInfo(step=s, commit=s) for s in (1, 2, 3)]
        >>> sorted(KeepLast(2).keeps(infos))
        [2, 3]
    """

    n: int

    def __post_init__(self) -> None:
        _count("n", self.n, "to keep everything, pass keep=None to the store.")

    @property
    def at_most(self) -> int | None:
        """Twice `n`: the newest, and the newest finite ones."""
        return 2 * self.n

    def keeps(self, infos: Sequence[CheckpointInfo]) -> frozenset[int]:
        """Return the commit numbers to keep."""

        def newest(some: Sequence[CheckpointInfo]) -> set[int]:
            return set(sorted((info.commit for info in some), reverse=True)[: self.n])

        return _finite_first(infos, newest)


@final
@dataclass(frozen=True)
class KeepBest(_Joinable):
    """Keep those with the best values of a metric.

    A checkpoint without the metric, or where it is NaN or infinite, is never among the best. Of
    equal values the earlier commit is the better one, as with Keras's strict comparison. As long as
    no checkpoint has the metric at all, every one is kept.

    Args:
        metric: Name of the metric.
        mode: `"min"` if smaller is better, `"max"` if larger is.
        n: How many to keep. At least 1. Defaults to 1.

    Raises:
        InvalidArgumentError: If `mode` or `n` cannot mean anything.

    Example:
        >>> losses = {1: 0.5, 2: float("nan"), 3: 0.4}
        >>> infos = [CheckpointInfo(s, commit=s, metrics={"loss": v}) for s, v in losses.items()]
        >>> sorted(KeepBest("loss", "min").keeps(infos))
        [3]
    """

    metric: str
    mode: Literal["min", "max"]
    n: int = 1

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise InvalidArgumentError.for_argument("mode", self.mode, "'min' or 'max'")
        _count("n", self.n, "to keep the best one, pass n=1.")

    @property
    def at_most(self) -> int | None:
        """The number asked for."""
        return self.n

    def ranked(self, infos: Sequence[CheckpointInfo]) -> list[CheckpointInfo]:
        """Return those that can be best, the best first.

        Those whose tensors hold non-finite values stand behind all others: a model may hold an
        infinity on purpose (an attention mask), and then all its checkpoints do.
        """
        sign = 1.0 if self.mode == "min" else -1.0

        def key(info: CheckpointInfo) -> tuple[bool, float, int]:
            return (not info.finite, sign * info.metrics[self.metric], info.commit)

        return sorted(
            (info for info in infos if math.isfinite(info.metrics.get(self.metric, math.nan))),
            key=key,
        )

    def keeps(self, infos: Sequence[CheckpointInfo]) -> frozenset[int]:
        """Return the commit numbers to keep."""
        if not any(self.metric in info.metrics for info in infos):
            return frozenset(info.commit for info in infos)
        return frozenset(info.commit for info in self.ranked(infos)[: self.n])


@final
@dataclass(frozen=True)
class KeepEvery(_Joinable):
    """Keep the first checkpoint of every so many steps or epochs, for ever.

    Time is cut into stretches of that length; the earliest checkpoint of each stretch stays. Saves
    need not fall on round numbers. Where epochs are counted and no checkpoint has one, every one is
    kept.

    Args:
        steps: Length of a stretch in steps. At least 1.
        epochs: Length of a stretch in epochs. At least 1. Exactly one of the two is given.

    Raises:
        InvalidArgumentError: If not exactly one length is given, or it is below 1.

    Example:
        >>> infos = [CheckpointInfo(step=s, commit=s) for s in (90, 110, 150, 210)]
        >>> sorted(KeepEvery(steps=100).keeps(infos))
        [90, 110, 210]
    """

    steps: int | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise InvalidArgumentError.for_argument(
                "steps",
                self.steps,
                "exactly one of steps and epochs",
                hint="pass KeepEvery(steps=1000) or KeepEvery(epochs=10).",
            )
        name = "steps" if self.epochs is None else "epochs"
        _count(name, getattr(self, name), "to keep everything, pass keep=None to the store.")

    @property
    def at_most(self) -> int | None:
        """No bound: it grows with the run."""
        return None

    def _is_blind(self, infos: Sequence[CheckpointInfo]) -> bool:
        return self.epochs is not None and all(info.epoch is None for info in infos)

    def keeps(self, infos: Sequence[CheckpointInfo]) -> frozenset[int]:
        """Return the commit numbers to keep."""
        if self._is_blind(infos):
            return frozenset(info.commit for info in infos)

        def firsts(some: Sequence[CheckpointInfo]) -> set[int]:
            first: dict[int, CheckpointInfo] = {}
            for info in sorted(some, key=lambda info: info.commit):
                position = info.step if self.steps else info.epoch
                if position is not None:
                    first.setdefault(position // (self.steps or self.epochs or 1), info)
            return {info.commit for info in first.values()}

        return _finite_first(infos, firsts)


@final
@dataclass(frozen=True, init=False)
class KeepAny(_Joinable):
    """Keep what any of several policies keeps; `a | b` makes one.

    Args:
        *policies: At least one.

    Example:
        >>> infos = [
        ...     CheckpointInfo(step=s, commit=s, metrics={"loss": v})
        ...     for s, v in enumerate([0.1, 0.5, 0.4])
        ... ]
        >>> sorted((KeepLast(1) | KeepBest("loss", "min")).keeps(infos))
        [0, 2]
    """

    policies: tuple[KeepPolicy, ...]

    def __init__(self, *policies: KeepPolicy) -> None:
        if not policies:
            raise InvalidArgumentError.for_argument("policies", policies, "at least one policy")
        flat: list[KeepPolicy] = []
        for policy in policies:
            flat.extend(policy.policies if isinstance(policy, KeepAny) else (policy,))
        object.__setattr__(self, "policies", tuple(flat))

    @property
    def at_most(self) -> int | None:
        """The sum of all, or None if one of them has no bound."""
        bounds = [policy.at_most for policy in self.policies]
        return None if None in bounds else sum(bound or 0 for bound in bounds)

    def keeps(self, infos: Sequence[CheckpointInfo]) -> frozenset[int]:
        """Return the commit numbers to keep."""
        return frozenset().union(*(policy.keeps(infos) for policy in self.policies))


def missing(policy: object, infos: Sequence[CheckpointInfo]) -> list[str]:
    """Say in words which rules have nothing to go by (rule 5).

    Args:
        policy: What to keep.
        infos: All committed checkpoints; with fewer than two there is nothing to choose.

    Example:
        >>> infos = [CheckpointInfo(s, commit=s, metrics={"val_accuracy": s}) for s in (1, 2)]
        >>> [words] = missing(KeepBest("val_acc", "max"), infos)
        >>> words.partition(" keeps all: ")[2]
        "none has the metric 'val_acc', but 'val_accuracy'"
    """
    if len(infos) < 2:
        return []
    if isinstance(policy, KeepAny):
        return [words for one in policy.policies for words in missing(one, infos)]
    if isinstance(policy, KeepBest):
        known = sorted({name for info in infos for name in info.metrics})
        if policy.metric not in known:
            others = f", but {', '.join(map(repr, known[:5]))}" if known else ", nor any other"
            return [f"{policy} keeps all: none has the metric {policy.metric!r}{others}"]
    if isinstance(policy, KeepEvery) and policy._is_blind(infos):
        return [f"{policy} keeps all: none was saved with an epoch (pass epoch= to save)"]
    return []


def keep(policy: KeepPolicy | None, infos: Sequence[CheckpointInfo]) -> frozenset[int]:
    """Return the commit numbers that stay under `policy`, the newest always among them.

    Args:
        policy: What to keep; None keeps everything.
        infos: All committed checkpoints, in any order.

    Returns:
        Commit numbers; empty only if `infos` is.

    Example:
        >>> infos = [CheckpointInfo(step=s, commit=s, metrics={"loss": s}) for s in (1, 2, 3)]
        >>> sorted(keep(KeepBest("loss", "min"), infos))
        [1, 3]
    """
    if policy is None or not infos:
        return frozenset(info.commit for info in infos)
    return policy.keeps(infos) | {max(info.commit for info in infos)}
