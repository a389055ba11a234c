"""The random generators of the process: Python's, NumPy's global one, PyTorch's.

All of it as plain numbers and arrays. Generators that somebody made (`np.random.default_rng()`) are
his: they belong into the `state_dict` of the callback or data set that uses them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from peakhold.trees import fold, is_named

__all__ = [
    "from_plain",
    "python_state",
    "random_state",
    "set_python_state",
    "set_random_state",
    "to_plain",
]


def random_state() -> dict[str, Any]:
    """The generators' state now, as a tree that a store can save."""
    import random  # here: it and NumPy take their time to import

    import numpy as np

    state: dict[str, Any] = {
        "python": python_state(random),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002 - the one that others draw from
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        state["torch"] = torch.get_rng_state().numpy()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = [one.numpy() for one in torch.cuda.get_rng_state_all()]
    return state


def python_state(generator: Any) -> dict[str, Any]:
    """The state of a `random.Random`, or of the module's own, as a tree that a store can save."""
    import numpy as np

    version, words, gauss = generator.getstate()
    return {"version": version, "words": np.array(words, np.uint64), "gauss": gauss}


def set_python_state(generator: Any, state: Mapping[str, Any]) -> None:
    """Put back what `python_state` returned."""
    generator.setstate((state["version"], tuple(map(int, state["words"])), state["gauss"]))


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put back what `random_state` returned; PyTorch's only if it is imported."""
    import random

    import numpy as np

    set_python_state(random, state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002 - see above
    torch = sys.modules.get("torch")
    if torch is None or "torch" not in state:
        return
    torch.set_rng_state(torch.from_numpy(state["torch"].copy()))
    devices = state.get("cuda", [])
    if devices and torch.cuda.is_available() and torch.cuda.device_count() == len(devices):
        torch.cuda.set_rng_state_all([torch.from_numpy(one.copy()) for one in devices])


def to_plain(state: Any) -> Any:
    """A state as plain JSON, for another worker: arrays as their type and their bytes."""
    return fold(state, lambda leaf, _: _plain_array(leaf), _plain_container)


def _plain_array(leaf: Any) -> Any:
    import base64

    if not hasattr(leaf, "tobytes"):
        return leaf
    data = base64.b64encode(leaf.tobytes()).decode()
    return {"$array": [leaf.dtype.str, list(leaf.shape), data]}


def _plain_container(container: Any, keys: Sequence[Any], children: list[Any], _: str) -> Any:
    if not is_named(container):
        return children
    pairs = list(zip(keys, children, strict=True))
    if all(isinstance(key, str) for key in keys):
        return dict(pairs)
    return {"$items": [list(pair) for pair in pairs]}


def from_plain(plain: Any) -> Any:
    """What `to_plain` was given."""
    return fold(plain, lambda leaf, _: _array_of(leaf), _container_of, is_leaf=_is_array)


def _container_of(container: Any, keys: Sequence[Any], children: list[Any], _: str) -> Any:
    if not is_named(container):
        return children
    if "$items" in keys:
        return dict(children[0])
    return dict(zip(keys, children, strict=True))


def _is_array(node: Any) -> bool:
    return isinstance(node, Mapping) and "$array" in node


def _array_of(leaf: Any) -> Any:
    import base64

    import numpy as np

    if not _is_array(leaf):
        return leaf
    kind, shape, data = leaf["$array"]
    return np.frombuffer(base64.b64decode(data), np.dtype(kind)).reshape(shape)
