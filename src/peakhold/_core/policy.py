"""What every policy is: a frozen configuration, a plain state, and functions without effect.

Rules of this file:

1. A policy is complete when it is constructed. An attribute that is set in mid-run makes a new
   policy; the state stays.
2. A state is plain numbers, strings and tuples of them, and so its own JSON.
3. `step` is asked at every moment that is shown to it, and ignores those that do not concern it.
4. Tickets count up within a state: a fact that answers an unknown one changes nothing.
5. What belongs to one run (what was seen in it, the mark from which time is counted) begins anew at
   TRAIN_BEGIN. A state that comes back from an earlier run is shown that moment before any other,
   or comes through `go_on`.
6. A state has `to_json` and `from_json`. A moment's defect counts for who remembers the state of
   that moment, and for nobody else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Generic, NamedTuple, Protocol, TypeVar

from peakhold._core.decisions import Decision, Remember, Stop
from peakhold._core.facts import Fact
from peakhold._core.moments import Moment

__all__ = ["Policy", "Speculation", "speculate"]

S = TypeVar("S")


class Policy(Protocol[S]):
    """Reads moments, makes decisions."""

    def init(self) -> S:
        """The state before the first moment."""

    def step(self, state: S, moment: Moment) -> tuple[S, tuple[Decision, ...]]:
        """Take one moment into account.

        Args:
            state: Where we are.
            moment: All there is to know.

        Returns:
            The new state, and what to do; each decision has its reason.
        """

    def learn(self, state: S, fact: Fact) -> S:
        """Take in what became of a decision."""

    def go_on(self, state: S) -> S:
        """The state with which the next fit of the same object goes on from this one."""


class Speculation(NamedTuple, Generic[S]):
    """A step taken twice: if the state of this moment is good, and if it is not."""

    good: tuple[S, tuple[Decision, ...]]
    bad: tuple[S, tuple[Decision, ...]] | None
    """None if the moment's state makes no difference: nobody wants to remember it."""
    must_wait: bool
    """Whether training ends now in only one of the two: then the answer must be known first."""


def speculate(policy: Policy[S], state: S, moment: Moment, defect: str) -> Speculation[S]:
    """Take a step before it is known whether the moment's state is finite.

    Looking at a state takes as long as copying it, and is done beside training. Until it is known,
    a state counts as good: with a bad one all that differs is the best and the wait, and the step
    is taken again, at the next moment, from where it began. Only whether training ends in this
    very moment cannot be put off.

    Args:
        policy: Any policy.
        state: Where we are.
        moment: What is known, without a defect.
        defect: What the moment's defect would be.
    """
    good = policy.step(state, moment)
    if not any(isinstance(decision, Remember) for decision in good[1]):
        return Speculation(good, None, must_wait=False)
    bad = policy.step(state, replace(moment, defect=defect))
    ends = [any(isinstance(d, Stop) for d in decisions) for _, decisions in (good, bad)]
    return Speculation(good, bad, must_wait=any(ends))
