"""What each of several workers has for itself, in a backup that rank 0 writes.

Problem. A backup holds one model, as rank 0 has it. Random generators differ by worker, and so may
what no gradient keeps equal: statistics of batch normalization, seeds of dropout, metrics, the
place in the data, a generator that the loop takes along. Put back from rank 0's, a worker goes on
otherwise.

Rules of this file:

1. Generators, seeds, the framework's metrics and the place in the data are each worker's own: they
   always travel.
2. Of statistics and extras checksums travel; only what differs does, in a second exchange, which
   all workers know from the first to be due.
3. All is plain JSON on the way, and arrays in the backup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from peakhold.host.contract import WEIGHTS, Host
from peakhold.host.extras import EXTRA, Extras
from peakhold.runtime.random_state import from_plain, random_state, to_plain
from peakhold.runtime.statistics import checksum, differing, replaced, statistics
from peakhold.snapshots.pool import Held
from peakhold.trees import leaves, map_tree, to_host

__all__ = ["collect", "extras_of", "held_of", "put_into"]

_ALWAYS: Final = ("random", "more", "place")


def collect(
    host: Host,
    more: Any,
    place: Any,
    extras: Extras,
    held: Mapping[str, Mapping[str, Held]],
    gather: Callable[[Any], Sequence[Any]],
) -> list[dict[str, Any]]:
    """What each worker has for itself, by rank; all workers must ask.

    Args:
        host: The model.
        more: What its framework has besides (`Resumption.more`).
        place: Where its loop is; None between epochs.
        extras: What the run takes along.
        held: What callbacks hold in memory, by their names and what they call it.
        gather: The values of all workers, by rank, of what each gives.
    """
    own: dict[str, Any] = {"random": random_state(), "more": more, "place": place}
    perhaps = _perhaps(host, extras, held)
    said = {name: to_plain(map_tree(own[name], to_host)) for name in _ALWAYS}
    said["sums"] = {name: checksum(value) for name, value in perhaps.items()}
    shared = [dict(each) for each in gather(said)]
    names = differing([each.pop("sums") for each in shared])
    if names:
        given = {
            name: to_plain(map_tree(perhaps[name], to_host)) for name in names if name in perhaps
        }
        for each, further in zip(shared, gather(given), strict=True):
            each["others"] = further
    return [from_plain(each) for each in shared]


def _perhaps(host: Host, extras: Extras, held: Mapping[str, Mapping[str, Held]]) -> dict[str, Any]:
    """What may be the same on all workers: statistics of models, and extras, by name."""
    now = statistics(host)
    found: dict[str, Any] = {f"{WEIGHTS}/{name}": array for name, array in now.items()}
    for called, snapshots in held.items() if now else ():
        for which, snapshot in snapshots.items():
            arrays = leaves(snapshot.parts.get(WEIGHTS), convert=False)
            found[_held(called, which)] = {name: one for name, one in arrays if name in now}
    if extras.names:
        for name, state in extras.borrow([EXTRA])[EXTRA].items():
            found[f"{EXTRA}/{name}"] = state
    return found


def _held(callback: str, called: str) -> str:
    return f"held/{callback}/{called}"


def held_of(own: Mapping[str, Any], callback: str, called: str, part: str, tree: Any) -> Any:
    """A part of a snapshot that a callback held, as it was on this worker."""
    others = own.get("others", {}).get(_held(callback, called))
    return replaced(tree, others) if others and part == WEIGHTS else tree


def put_into(own: Mapping[str, Any], parts: dict[str, Any], state: dict[str, Any]) -> None:
    """Have a backup hold what this worker had, in the place of what rank 0 had.

    Args:
        own: What it had for itself.
        parts: The parts of the model; changed.
        state: All but the model; changed.
    """
    state.update({name: own[name] for name in _ALWAYS if name in own})  # not in old ones
    others = own.get("others", {})
    if WEIGHTS in parts:
        before = f"{WEIGHTS}/"
        arrays = {n.removeprefix(before): v for n, v in others.items() if n.startswith(before)}
        parts[WEIGHTS] = replaced(parts[WEIGHTS], arrays)


def extras_of(own: Mapping[str, Any]) -> dict[str, Any]:
    """The states of its own extras, as far as they differed."""
    before = f"{EXTRA}/"
    others: Iterable[tuple[str, Any]] = own.get("others", {}).items()
    return {name.removeprefix(before): v for name, v in others if name.startswith(before)}
