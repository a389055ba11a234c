"""Every run of the suite, taken again by its policies: what was recorded decides the same.

A step of a policy hangs on its state, the facts since the step before, and the moment; nothing else.
So the steps of a run can be chained anew, from the state with which it began: each must decide what
it decided then, and end in the state with which the next one began. Where somebody has set the state
from outside (an attribute, `save_now`), the chain begins again from there; a policy that was made
anew by an attribute counts from its first step on.
"""

import functools
import importlib
import math
import pkgutil
import re
from dataclasses import replace

import peakhold._core
from peakhold._core.decisions import Remember
from peakhold._core.facts import NotFinite
from peakhold._core.states import state_from_json
from peakhold.ledger.lines import from_line, to_line
from peakhold.ledger.reader import read_events
from peakhold.ledger.told import (
    Chains,
    decisions_of,
    facts_of,
    is_quiet,
    known_of,
    line_of,
    moment_of,
    steps_of,
)


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


class FromTheRecord:
    """A listener that puts each moment through a line of the record, and takes its steps from there.

    What a line does not have (a state that follows from the step before) is worked out, as whoever
    reads the record has to. Only the policies themselves are those of the run.
    """

    def __init__(self):
        self.lines, self.wrong = 0, []
        self._chains, self._after, self._best = {}, {}, {}

    def __call__(self, told):
        run = told.run_id, told.rank
        chains = self._chains.setdefault(run, Chains())
        if is_quiet(told):
            chains.skip(told)
            return
        line = from_line(to_line(line_of(told, chains)))
        self.lines += 1
        moment = told.moment
        metrics = {name: float(value) for name, value in moment.metrics.items()}
        self._compare("moment", moment_of(line), replace(moment, metrics=metrics))
        self._compare("decisions", decisions_of(line), _some(told.decided))
        self._compare("facts", facts_of(line), known_of(told))
        steps = steps_of(line)
        self._compare("who", list(steps), list(_some(told.traces)))
        for name, taken in steps.items():
            for step, trace in zip(taken, told.traces[name], strict=True):
                self._again((*run, name), step, trace.policy)

    def _again(self, key, step, policy):
        if step.before is None:
            state = self._after[key]
        else:
            state = state_from_json(type(policy.init()), step.before)
        for fact in step.facts:
            if isinstance(fact, NotFinite) and key in self._best:
                before, moment, earlier = self._best[key]
                state, _ = earlier.step(before, replace(moment, defect=fact.defect))
            state = policy.learn(state, fact)
        self._after[key], decisions = policy.step(state, step.moment)
        self._compare(key[2], decisions, step.decisions)
        if any(isinstance(decision, Remember) for decision in decisions):
            self._best[key] = (state, step.moment, policy)

    def _compare(self, what, read, told):
        if not _same(read, told):
            self.wrong.append((what, read, "not", told))


class FromTheFile:
    """The records of runs as readers see them, taken again by policies that are made of their words.

    Of the run itself there is nothing left: a whole run, or one of several starts, from its folder.
    """

    def __init__(self):
        self.records = self.steps = 0
        self.wrong = []

    def __call__(self, path):
        """Read a record, and take its steps again."""
        self.records += 1
        for name, moment, now, then in _pairs(read_events(path, on_damage=lambda *_: None), {}):
            self.steps += 1
            if not _same(now, then):
                self.wrong.append((str(path), name, moment, now, "not", then))


def taken_again(events, policies):
    """What policies decide at each recorded moment, beside what was decided then.

    Args:
        events: Of the record.
        policies: By participant; the others' steps are left out.
    """
    pairs = _pairs(events, policies)
    return [(moment, now, then) for name, moment, now, then in pairs if name in policies]


def _pairs(events, policies):
    """Participant, moment, and the decisions now and then; a policy that is not given is made."""
    after, best, made = {}, {}, {}
    for event in events:
        if event["kind"] != "moment":
            continue
        decided = decisions_of(event)
        for name, steps in steps_of(event).items():
            for step in steps:
                if step.policy is not None:
                    made[name] = policies.get(name) or policy_of(step.policy)
                policy = made.get(name)
                if policy is None:  # a stranger's
                    continue
                state = (
                    after[name]
                    if step.before is None
                    else state_from_json(type(policy.init()), step.before)
                )
                for fact in step.facts:
                    if isinstance(fact, NotFinite) and name in best:
                        before, moment, earlier = best[name]
                        state, _ = earlier.step(before, replace(moment, defect=fact.defect))
                    state = policy.learn(state, fact)
                after[name], decisions = policy.step(state, step.moment)
                yield name, moment_of(event), decisions, step.decisions
                if any(isinstance(one, Remember) for one in decisions):
                    best[name] = state, step.moment, policy
                # What the shell adds at the end (the best weights) is no decision of the policy's.
                assert set(step.decisions) <= set(decided.get(name, ())), event


def policy_of(words):
    """A policy, made anew of its words in a record; None for a stranger's.

    Raises:
        ValueError: If it is one of ours, and its words are not enough.
    """
    known = _names()
    kind = words.partition("(")[0]
    if kind not in known:
        return None
    # An enumeration's member is written as `<Direction.MIN: 'min'>`.
    source = re.sub(r"<(\w+\.\w+): [^>]*>", r"\1", words)
    try:
        policy = eval(source, known)
    except Exception as error:
        raise ValueError(f"{words} cannot be made again: {error}") from error
    if repr(policy) != words:
        raise ValueError(f"{words} cannot be made again: it is {policy}")
    return policy


@functools.cache
def _names():
    """All names of the core."""
    known = {"inf": math.inf, "nan": math.nan}
    for module in pkgutil.walk_packages(peakhold._core.__path__, "peakhold._core."):
        known |= vars(importlib.import_module(module.name))
    return known


def _some(by_name):
    return {name: each for name, each in by_name.items() if each}


def _same(one, other):
    return repr(one) == repr(other)  # NaN is equal to itself here
