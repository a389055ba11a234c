"""Which data can be gone through again, so that a `fit` goes on inside an epoch with the same rows.

A place inside an epoch is found again by making the same pass over the data anew, from the random
generators as they were when it began, and leaving out what was trained. That needs data of which a
second pass is known to be the same. What is not known to be is refused here, in words: before the
first batch, never by other rows in silence.

Rules of this file:

1. Nothing is read and nothing is drawn: only how the data were described is looked at.
2. What is not known is refused. A list says which kinds of `tf.data` are known, not which are not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import keras

__all__ = ["has_state", "tensorflow_seed", "why_not_repeatable"]

_KNOWN: Final = frozenset(
    """
    AssertCardinality Batch Cache Concatenate Counter Enumerate Filter FixedLengthRecord FlatMap
    Interleave Map Model Options PaddedBatch ParallelBatch ParallelInterleave ParallelMap Prefetch
    Range Repeat Restructured Scan Shard Shuffle Skip Take TakeWhile TensorSlice Tensor TextLine
    TFRecord Unbatch Window Zip
    """.split()  # noqa: SIM905 - a list of words
)
"""Data sets of `tf.data` of which two passes give the same, if their shuffles and functions do."""
_PYTHON: Final = frozenset({"PyFunc", "EagerPyFunc", "PyFuncStateless"})
_LATER: Final = frozenset({"Repeat", "Concatenate", "FlatMap", "Interleave", "ParallelInterleave"})
"""These begin what is before them more than once in a pass, or later."""


def why_not_repeatable(adapter: Any) -> str | None:
    """Why a pass over the data cannot be made again, and what to do; None if it can.

    Args:
        adapter: What Keras has put around the data.
    """
    look = _LOOKS.get(type(adapter).__name__)
    if look is None:
        what = type(adapter).__name__.removesuffix("Adapter")
        return f"{what} is not known to give the same batches twice; {_INSTEAD}"
    return look(adapter)


_INSTEAD: Final = "pass arrays, a keras.utils.PyDataset, a tf.data.Dataset or a torch DataLoader"


def has_state(data: Any) -> bool:
    """Whether an object says, and takes back, how far it is."""
    return callable(getattr(data, "state_dict", None)) and callable(
        getattr(data, "load_state_dict", None)
    )


def tensorflow_seed() -> int | None:
    """The seed that the program has set in TensorFlow; None if none is known."""
    if "tensorflow" not in sys.modules:
        return None
    try:
        from tensorflow.python.eager import context
    except ImportError:
        from keras.src.utils.rng_utils import get_random_seed

        return get_random_seed()  # type: ignore[no-any-return]
    return context.global_seed()  # type: ignore[no-any-return]


def _py_dataset(adapter: Any) -> str | None:
    data = adapter.py_dataset
    if adapter.enqueuer is not None:
        return (
            "what workers of a PyDataset have made ahead cannot be brought back; pass workers=1 "
            "without use_multiprocessing"
        )
    base = keras.utils.PyDataset
    own = [
        name
        for name in ("on_epoch_begin", "on_epoch_end")
        if getattr(type(data), name) is not getattr(base, name)
    ]
    if own and not has_state(data):
        return (
            f"{type(data).__name__} changes between epochs ({', '.join(own)}); give it "
            "state_dict() and load_state_dict(state), which say how far it is"
        )
    return None


def _data_loader(adapter: Any) -> str | None:
    if getattr(adapter._dataloader, "persistent_workers", False):
        return (
            "the workers of a DataLoader with persistent_workers=True go on from earlier epochs, "
            "and cannot be brought back; pass persistent_workers=False"
        )
    return None


# tf.data


def _tf_data(adapter: Any) -> str | None:
    data = adapter._dataset
    if not hasattr(data, "_inputs"):
        return f"{type(data).__name__} is spread over several devices; train on one"
    if data.options().deterministic is False:
        return "its options say deterministic=False; leave that out"
    for node, kind, later in _nodes(data):
        words = _why_not(node, kind, later, endless=adapter.num_batches is None)
        if words is not None:
            return words
    return None


def _why_not(data: Any, kind: str, later: frozenset[str], *, endless: bool) -> str | None:
    if kind not in _KNOWN:
        return f"tf.data's {kind} is not known to give the same batches twice; leave it out"
    if getattr(data, "_deterministic", None) == "false":
        return f"tf.data's {kind} has deterministic=False; leave that out"
    if kind == "Shuffle":
        return _why_not_shuffled(data, later, endless=endless)
    return _why_not_computed(data, kind, later)


def _why_not_shuffled(data: Any, later: frozenset[str], *, endless: bool) -> str | None:
    if not any(int(getattr(data, name, 0)) for name in ("_seed", "_seed2")):
        return (
            "tf.data shuffles with a seed that nobody knows; call "
            "keras.utils.set_random_seed(seed) before the data set is made, or pass "
            "shuffle(..., seed=seed)"
        )
    if "Cache" in later and data._reshuffle_each_iteration is not False:
        return "the order of a shuffle before cache() is in the cache; shuffle after it"
    if later & _LATER and not endless:
        return "a shuffle that is begun several times in an epoch is not followed; shuffle last"
    return None


def _why_not_computed(data: Any, kind: str, later: frozenset[str]) -> str | None:
    for seeded in map(_randomness, getattr(data, "_functions", list)()):
        if seeded is None:
            return "tf.data calls Python functions, of which nothing is known; use TensorFlow's"
        if not all(seeded):
            return (
                "a function in tf.data draws random numbers without a seed, or shuffles; pass a "
                "seed to it, and shuffle outside of it"
            )
        if seeded and (kind.startswith("Parallel") or "Cache" in later):
            return (
                "a function in tf.data draws random numbers in parallel, or before cache(); use "
                "tf.random.stateless_uniform and its like"
            )
    return None


_Stage = tuple[Any, str]


def _nodes(
    data: Any, later: frozenset[str] = frozenset()
) -> Iterator[tuple[Any, str, frozenset[str]]]:
    """A data set and all that it is made of, each with the kinds that come after it."""
    kind = type(data).__name__.strip("_").removesuffix("V1").removesuffix("V2")
    kind = kind.removesuffix("Adapter").removesuffix("Dataset") or kind
    yield data, kind, later
    for before in data._inputs():
        yield from _nodes(before, later | {kind})


def _randomness(function: Any) -> list[bool] | None:
    """For each draw in a function, whether it has a seed; None if it calls Python."""
    graph = function.function.graph.as_graph_def()
    nodes = [*graph.node, *(node for one in graph.library.function for node in one.node_def)]
    found: list[bool] = []
    for node in nodes:
        if node.op in _PYTHON:
            return None
        if node.op.startswith(("Stateful", "Rng", "Shuffle")) and "Partitioned" not in node.op:
            found.append(False)  # goes on from pass to pass
        elif "seed" in node.attr and "seed2" in node.attr:
            found.append(bool(node.attr["seed"].i or node.attr["seed2"].i))
    return found


_LOOKS: Final[Mapping[str, Callable[[Any], str | None]]] = {
    "ArrayDataAdapter": lambda _: None,  # an order without a seed is told of at every resume
    "TFDatasetAdapter": _tf_data,
    "TorchDataLoaderAdapter": _data_loader,
    "PyDatasetAdapter": _py_dataset,
    "GeneratorDataAdapter": lambda _: f"a Python generator cannot be begun anew; {_INSTEAD}",
}
