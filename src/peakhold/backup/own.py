"""What each of several workers has for itself, in a backup that rank 0 writes.

Problem. A backup holds one model, as rank 0 has it. Random generators differ by worker, and so may
what no gradient keeps equal: statistics of batch normalization, seeds of dropout, metrics, a
generator that the loop takes along. Put back from rank 0's, a worker goes on otherwise.

Rules of this file:

1. Generators, seeds and the framework's metrics are each worker's own: they always travel.
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
from peakhold.trees import fold, leaves, map_tree, to_host, with_leaves

__all__ = ["checksum", "collect", "differs", "extras_of", "put_into", "statistics"]

_ALWAYS: Final = ("random", "more")


def collect(
    host: Host, more: Any, extras: Extras, gather: Callable[[Any], Sequence[Any]]
) -> list[dict[str, Any]]:
    """What each worker has for itself, by rank; all workers must ask.

    Args:
        host: The model.
        more: What its framework has besides (`Resumption.more`).
        extras: What the run takes along.
        gather: The values of all workers, by rank, of what each gives.
    """
    own: dict[str, Any] = {"random": random_state(), "more": more}
    perhaps = _perhaps(host, extras)
    said = {name: to_plain(map_tree(own[name], to_host)) for name in _ALWAYS}
    said["sums"] = {name: checksum(value) for name, value in perhaps.items()}
    shared = [dict(each) for each in gather(said)]
    differing = differs([each.pop("sums") for each in shared])
    if differing:
        given = {
            name: to_plain(map_tree(perhaps[name], to_host))
            for name in differing
            if name in perhaps
        }
        for each, further in zip(shared, gather(given), strict=True):
            each["others"] = further
    return [from_plain(each) for each in shared]


def _perhaps(host: Host, extras: Extras) -> dict[str, Any]:
    """What may be the same on all workers: statistics of the model, and extras, by name."""
    found = statistics(host)
    if extras.names:
        for name, state in extras.borrow([EXTRA])[EXTRA].items():
            found[f"{EXTRA}/{name}"] = state
    return found


def statistics(host: Host) -> dict[str, Any]:
    """Arrays of the weights that each worker changes for itself, by `weights/` and their names."""
    names = host.unsynced_weights()
    if not names:
        return {}
    tree = host.borrow([WEIGHTS])[WEIGHTS]
    return {
        f"{WEIGHTS}/{name}": array for name, array in leaves(tree, convert=False) if name in names
    }


def differs(sums: Sequence[Mapping[str, str]]) -> list[str]:
    """Names of what is not the same on all workers."""
    names = dict.fromkeys(name for each in sums for name in each)
    return [name for name in names if len({each.get(name) for each in sums}) > 1]


def checksum(tree: Any) -> str:
    """A short text that is the same for equal trees."""
    import numpy as np
    import xxhash

    total = xxhash.xxh3_64()
    for name, leaf in leaves(tree):
        array = np.asarray(leaf)
        raw = array.tobytes() if array.dtype.kind not in "OUS" else repr(leaf).encode()
        total.update(f"{name}:{array.dtype}:{array.shape}".encode())
        total.update(raw)
    return str(total.hexdigest())


def put_into(own: Mapping[str, Any], parts: dict[str, Any], state: dict[str, Any]) -> None:
    """Have a backup hold what this worker had, in the place of what rank 0 had.

    Args:
        own: What it had for itself.
        parts: The parts of the model; changed.
        state: All but the model; changed.
    """
    state.update({name: own[name] for name in _ALWAYS})
    others = own.get("others", {})
    if WEIGHTS in parts:
        parts[WEIGHTS] = _replaced(parts[WEIGHTS], others)


def extras_of(own: Mapping[str, Any]) -> dict[str, Any]:
    """The states of its own extras, as far as they differed."""
    before = f"{EXTRA}/"
    others: Iterable[tuple[str, Any]] = own.get("others", {}).items()
    return {name.removeprefix(before): v for name, v in others if name.startswith(before)}


def _replaced(tree: Any, others: Mapping[str, Any]) -> Any:
    values = [
        leaf if name is None else others.get(f"{WEIGHTS}/{name}", leaf)
        for name, leaf in _named(tree)
    ]
    return with_leaves(tree, values)


def _named(tree: Any) -> list[tuple[str | None, Any]]:
    """Names and leaves in the order of `leaf_list`; of what is None there is no name."""
    found: list[tuple[str | None, Any]] = []
    fold(
        tree,
        lambda leaf, path: found.append((None if leaf is None else path or "0", leaf)),
        lambda *_: None,
        separator=".",
    )
    return found
