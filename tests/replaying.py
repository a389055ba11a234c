"""Every run of the suite, taken again by its policies: what was recorded decides the same.

A step of a policy hangs on its state, the facts since the step before, and the moment; nothing else.
So the steps of a run can be chained anew, from the state with which it began: each must decide what
it decided then, and end in the state with which the next one began. Where somebody has set the state
from outside (an attribute, `save_now`), the chain begins again from there; a policy that was made
anew by an attribute counts from its first step on.
"""

from dataclasses import replace

from peakhold._core.decisions import Remember
from peakhold._core.facts import NotFinite


class Replay:
    """A listener that keeps the steps of each run, and takes them again."""

    def __init__(self):
        self.steps, self.last = 0, {}
        self.wrong = []

    def __call__(self, told):
        for name, traces in told.traces.items():
            for trace in traces:
                self._again((told.run_id, told.rank, name), trace)

    def _again(self, key, trace):
        remembered = self.last.get((*key, "best"))
        state = trace.before
        for fact in trace.facts:
            if isinstance(fact, NotFinite) and remembered is not None:
                before, moment, policy = remembered
                state, _ = policy.step(before, replace(moment, defect=fact.defect))
            state = trace.policy.learn(state, fact)
        after, decisions = trace.policy.step(state, trace.moment)
        self.steps += 1
        if decisions != trace.decisions:
            self.wrong.append((key[2], trace.moment, trace.decisions, decisions))
        chained = self.last.get((*key, "after"))
        if chained is not None and not trace.was_set and not _same(chained, trace.before):
            self.wrong.append((key[2], trace.moment, "began with", trace.before, "not", chained))
        self.last[(*key, "after")] = after
        if any(isinstance(decision, Remember) for decision in decisions):
            self.last[(*key, "best")] = (state, trace.moment, trace.policy)


def _same(one, other):
    return repr(one) == repr(other)  # NaN is equal to itself here
