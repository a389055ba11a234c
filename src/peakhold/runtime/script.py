"""What happens at each event of a run, as a table that prints itself.

`python -m peakhold.runtime.script` prints the table of `docs/explanation/one-epoch.md`. The session
goes through it: a phase that does not stand here does not happen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from peakhold._core.observation import Event

__all__ = ["SCRIPT", "Scene", "picture"]


class Scene(NamedTuple):
    """The phases of one event, each by its name."""

    before: tuple[str, ...] = ()
    """By the first of ours to be called, for all participants, once in a run; before there is a
    moment."""
    first: tuple[str, ...] = ()
    """By the first of ours to be called, for all participants."""
    each: tuple[str, ...] = ()
    """By the first of each segment, for the participants of that segment."""
    last: tuple[str, ...] = ()
    """By the last of ours to be called, for all participants."""


_MOMENT = ("aggregate", "learn", "measure", "decide", "apply", "record", "tell")
_BATCH = tuple(phase for phase in _MOMENT if phase != "aggregate")

SCRIPT: Final[Mapping[Event, Scene]] = {
    Event.TRAIN_BEGIN: Scene(
        before=("meet", "resume", "agree", "needs", "buffers", "advise", "signals")
    ),
    Event.EPOCH_BEGIN: Scene(before=("put_back",), each=("begin", *_MOMENT)),
    Event.TRAIN_BATCH_BEGIN: Scene(each=("begin", *_BATCH)),
    Event.TRAIN_BATCH_END: Scene(each=("begin", *_BATCH)),
    Event.TEST_BEGIN: Scene(each=_MOMENT),
    Event.TEST_BATCH_BEGIN: Scene(each=_BATCH),
    Event.TEST_END: Scene(each=_MOMENT),
    Event.EPOCH_END: Scene(each=("begin", *_MOMENT), last=("withdraw", "commit", "lend_again")),
    Event.TRAIN_END: Scene(
        before=("put_back",),
        first=("begin", "aggregate", "learn", "decide", "save", "tell"),
        each=("apply", "record"),
        last=("settle", "follow", "end", "release", "summarize"),
    ),
}

_MEANINGS: Final[Mapping[str, str]] = {
    "meet": "of several workers: all begin the same run, or none does (the coordinator is asked)",
    "resume": "the keeper takes over what an interrupted run left: states, name, first epoch",
    "agree": "one name for the run on all workers (the coordinator is asked)",
    "needs": "each forgets its earlier run, and raises what cannot work",
    "buffers": "what will be held in memory is booked and allocated",
    "advise": "settings that work against each other are said",
    "signals": "Ctrl-C and SIGTERM are listened to",
    "put_back": "the keeper puts the interrupted run's state back, the random generators last",
    "begin": "each hears, once, how its run starts: fresh, continued or resumed",
    "aggregate": "one moment for all workers: rank 0 gets the metrics of all, the others what "
    "rank 0 has made of them (the coordinator is asked)",
    "learn": "facts since the moment before: committed, failed, not finite",
    "measure": "each adds to the metrics, and to the answers of users' own functions",
    "decide": "policies decide; rank 0's answer counts (the coordinator is asked)",
    "save": "what of the last state is to be saved is saved, for all",
    "apply": "decisions are carried out, kind by kind: rates, snapshots, saves, restores, stops",
    "record": "CSV, TensorBoard, messages",
    "tell": "listeners are told: the moment, what was decided, what became known",
    "withdraw": "whoever lent the model other weights takes them out",
    "commit": "the keeper backs up what all have decided (the coordinator is asked)",
    "lend_again": "and puts them in again",
    "settle": "what is being written is waited for",
    "follow": "what has become of the last saves is known to all (the coordinator is asked)",
    "end": "everything is on disk: a backup is not needed any more",
    "release": "memory and signals are let go",
    "summarize": "the last lines; an error, or KeyboardInterrupt, is raised",
}


_FOR_WHOM: Final = ("all, once", "all, once", "each segment", "all, at last")


def picture() -> str:
    """The table in Markdown: events in their order, phases with what they mean."""
    lines = ["| event | phase | for whom | what happens |", "|---|---|---|---|"]
    for event, scene in SCRIPT.items():
        shown = f"`{event}`"
        for whom, phases in zip(_FOR_WHOM, scene, strict=True):
            for phase in phases:
                meaning = _MEANINGS[phase]
                lines.append(f"| {shown} | {phase.replace('_', ' ')} | {whom} | {meaning} |")
                shown = ""
    return "\n".join(lines)


if __name__ == "__main__":
    print(picture())
