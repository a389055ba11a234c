"""What of the weights each of several workers changes for itself: statistics of its own data.

Problem. Gradients are the same on all workers, and so are the weights. Means and variances of batch
normalization come from each worker's batches, and differ. The metric that ranks a model is that of
all workers, each with its own statistics; the file holds those of rank 0, a model that nobody has
validated.

Solution. Checksums travel with the report of an epoch's end where somebody saves, until one
differs: that is said, once. Or the mean of all is put into the model, on all workers, before
anything is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from peakhold.errors import AdviceWarning
from peakhold.host.contract import WEIGHTS, Host
from peakhold.runtime.random_state import from_plain, to_plain
from peakhold.trees import fold, leaves, map_tree, to_host, with_leaves

if TYPE_CHECKING:
    from peakhold.runtime.session import Session

__all__ = ["average", "checksum", "differing", "replaced", "statistics", "tell"]

_SHOWN: Final = 3
"""So many names say which layers are meant."""


def statistics(host: Host) -> dict[str, Any]:
    """The arrays by name, as they are in the model now."""
    names = host.unsynced_weights()
    if not names or WEIGHTS not in host.parts() or not host.ensure_built([WEIGHTS]):
        return {}
    tree = host.borrow([WEIGHTS])[WEIGHTS]
    return {name: array for name, array in leaves(tree, convert=False) if name in names}


def checksum(tree: Any) -> str:
    """A short text that is the same for equal trees."""
    import numpy as np
    import xxhash

    total = xxhash.xxh3_64()
    for name, leaf in leaves(tree):
        array = np.asarray(leaf)
        total.update(f"{name}:{array.dtype}:{array.shape}".encode())
        total.update(array.tobytes() if array.dtype.kind not in "OUS" else repr(leaf).encode())
    return str(total.hexdigest())


def differing(sums: Sequence[Mapping[str, str]]) -> list[str]:
    """Names of what is not the same on all workers."""
    names = dict.fromkeys(name for each in sums for name in each)
    return [name for name in names if len({each.get(name) for each in sums}) > 1]


def replaced(tree: Any, others: Mapping[str, Any]) -> Any:
    """The same tree with other arrays, by name."""
    found: list[Any] = []

    def note(leaf: Any, path: str) -> None:
        found.append(leaf if leaf is None else others.get(path or "0", leaf))

    fold(tree, note, lambda *_: None, separator=".")
    return with_leaves(tree, found)


def tell(session: Session, sums: Sequence[Mapping[str, str]]) -> bool:
    """Say that statistics differ, if they do; whether they do."""
    names = differing(sums)
    if names:
        own = dict(session.host.named(WEIGHTS, session.host.borrow([WEIGHTS])[WEIGHTS]))
        called = dict(zip(map(str, range(len(own))), own, strict=True))
        shown = [name if name in own else called.get(name, name) for name in names]
        more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        session.warn(
            f"{', '.join(shown[:_SHOWN])}{more} differ between workers: each has updated them by "
            "its own batches; files and backups hold those of rank 0, while metrics are of all. "
            f"Hint: {_way_out(session.host)}, or pass ModelCheckpoint(..., buffers='mean').",
            AdviceWarning,
        )
    return bool(names)


def _way_out(host: Host) -> str:
    versions = host.versions()
    if "torch" in {*versions, versions.get("backend")}:
        return "use torch.nn.SyncBatchNorm, validate by the wrapped model"
    return "use BatchNormalization(synchronized=True)"


def average(session: Session, what: str) -> None:
    """Put the mean of all workers' statistics into the model; all workers must call it."""
    host = session.host
    mine: dict[str, Any] = map_tree(statistics(host), to_host)
    every = [from_plain(one) for one in session.coordinator.gather(what, to_plain(mine))]
    means = {name: _mean(each[name] for each in every) for name in mine}
    if not means:
        return
    host.restore({WEIGHTS: replaced(host.borrow([WEIGHTS])[WEIGHTS], means)})
    session.new_moment()


def _mean(arrays: Iterable[Any]) -> Any:
    """The mean of floats; of anything else (batches that were seen) rank 0's."""
    import numpy as np

    values = list(arrays)
    first = values[0]
    if first.dtype.kind != "f":
        return first
    return np.mean(np.stack(values), axis=0, dtype=np.float64).astype(first.dtype)
