"""A loop's state as a plain tree, and a plain tree as a state of the loop's own types again.

Rules of this file:

1. What is copied or written is plain: dicts, lists and tuples, arrays of NumPy, tensors of PyTorch,
   numbers and text. `taken_apart` makes that of a state, and copies nothing.
2. What is put back has the types of the state that is live at that moment, whatever way it took and
   whatever it was when it was saved: leaf, container, dtype, device and sharding. `like_live` is
   the one place where that is seen to, and what it returns shares no memory with what it was given.
3. A value is never lost to that: what the live dtype cannot hold the like of (a fraction for an
   int) keeps its own, and an array without a counterpart becomes one of the same library.
4. No framework is imported. Whoever has a state of a framework's has imported it.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from functools import partial
from operator import is_
from typing import Any, Final, final

from peakhold.errors import InvalidArgumentError
from peakhold.host.pieces import is_in_pieces, is_piece, tensor_of_pieces
from peakhold.host.spread import refuse_spread
from peakhold.host.torch_tensors import (
    UnreadableError,
    is_lazy,
    is_sparse_parts,
    readable,
    sparse_like,
)
from peakhold.trees import (
    DEEPEST,
    NOTHING,
    NUMBERS,
    PLAIN,
    Likeness,
    RawTensorLike,
    TooDeepError,
    Walk,
    fold,
    is_container,
    leaf_list,
    library_of,
    map_tree,
    merge,
    to_host,
)

__all__ = ["TakenApart", "like_live", "taken_apart", "tensor_of"]

_PATIENCE: Final = 3


def taken_apart(state: Any) -> Any:
    """The state as a plain tree, as far as possible without a copy.

    Args:
        state: Dicts, lists and tuples, dataclasses and what else JAX has been told to be a node;
            arrays of any library.
    """
    try:
        return map_tree(state, _plain_leaf)
    except (UnreadableError, TooDeepError):
        raise _refusal(state) from None


@final
class TakenApart:
    """`taken_apart` of states that come one after the other, most of which are alike.

    A state of dicts, lists and tuples whose leaves are plain is its own plain tree: most are, and
    of the next one that is told by a few passes that C makes. Of all others a new tree is made.
    """

    def __init__(self) -> None:
        self._likeness = Likeness()
        self._n_others = 0
        """How many states in a row were not plain: then nothing is expected any more."""

    def of(self, state: Any) -> tuple[Any, Walk | None]:
        """The state as a plain tree: the very same object where that is one.

        Args:
            state: As `taken_apart` has it.

        Returns:
            The tree; and what the walk over it has shown, if it is the state itself.
        """
        if self._n_others <= _PATIENCE:
            likeness = self._likeness
            self._likeness = Likeness()  # that one may be left half changed by Ctrl-C
            try:
                leaves, outline = likeness.leaves_of(state)
            except TooDeepError:
                raise _refusal(state) from None
            self._likeness = likeness
            if outline is not None and outline.is_plain and _are_plain(leaves):
                self._n_others = 0
                return state, (leaves, outline)
            self._n_others += 1
        return taken_apart(state), None


def _are_plain(leaves: list[Any]) -> bool:
    """Whether each is what `taken_apart` makes of it."""
    numpy = sys.modules.get("numpy")
    kinds = {*map(type, leaves)} - PLAIN
    if numpy is not None and kinds <= {numpy.ndarray}:
        return True
    try:
        # In the place of a leaf there may be a container now.
        return not any(map(is_container, leaves)) and all(
            map(is_, leaves, map(_plain_leaf, leaves))
        )
    except (UnreadableError, TypeError, RuntimeError):
        return False  # whoever takes it apart meets it again, and says what it is


def _refusal(state: Any) -> InvalidArgumentError:
    """Which leaf it is, found by a second walk: the first one is made at each snapshot."""

    def look(leaf: Any, path: str) -> None:
        try:
            _plain_leaf(leaf)
        except UnreadableError as error:
            raise InvalidArgumentError.for_argument(
                f"the state at {path or 'its root'!r}",
                type(leaf).__name__,
                f"a state whose values can be copied ({error})",
                hint=error.hint,
            ) from None

    try:
        fold(state, look, lambda *_: None)
    except InvalidArgumentError as error:
        return error
    except TooDeepError as error:
        return InvalidArgumentError.for_argument(
            f"the state at {error.path[:200]!r}",
            error.kind,
            f"a state of at most {DEEPEST} containers in one another, and none in itself",
            hint="pass a state without what refers back.",
        )
    raise RuntimeError("the state changed while it was looked at")


def like_live(loaded: Any, live: Any, stray: Any = None) -> Any:
    """A copy of a loaded state in the types of a live one.

    What a store or a file gives is plain: dicts, lists, tuples, arrays of NumPy. This makes of it
    what a framework's own functions take: its containers, and arrays of the same library, dtype,
    device and sharding.

    Args:
        loaded: The values; arrays may be of any library.
        live: The state that it is to take the place of. Its values are not looked at.
        stray: An array of the library that arrays without a counterpart are to be of; None: of the
            library of the first one in `live`.

    Returns:
        A state that shares no memory with either.

    Raises:
        InvalidArgumentError: If a leaf's values cannot be copied; its path is named.

    Example:
        >>> import numpy as np
        >>> from collections import namedtuple
        >>> Adam = namedtuple("Adam", "count mu")
        >>> live = Adam(0, {"w": np.zeros(2, np.float32)})
        >>> like_live((7, {"w": np.ones(2)}), live)
        Adam(count=7, mu={'w': array([1., 1.], dtype=float32)})
    """
    if stray is None:
        stray = next(filter(library_of, leaf_list(live)), None)
    return merge(taken_apart(loaded), live, partial(_leaf_like, stray=stray), is_piece)


# Leaves


def _plain_leaf(leaf: Any) -> Any:
    library = library_of(leaf)
    if library == "torch":
        return readable(leaf)
    foreign = library is None and hasattr(leaf, "__array__") and not isinstance(leaf, type)
    return _of_numpy(leaf) if foreign or library in {"numpy", "jax"} else leaf


def _of_numpy(leaf: Any) -> Any:
    """An array of another library as one of NumPy, without a copy where that library allows."""
    import numpy as np

    if isinstance(leaf, np.generic):
        return leaf
    try:
        return np.asarray(leaf)
    except TypeError:  # NumPy cannot see typed keys of JAX
        of_jax = library_of(leaf) == "jax"
        return np.asarray(sys.modules["jax"].random.key_data(leaf)) if of_jax else leaf
    except RuntimeError as error:  # JAX's
        refuse_spread("an array", leaf, error)
        raise


def _leaf_like(value: Any, live: Any, stray: Any) -> Any:
    """A copy of a plain leaf in the type of the live one; or of what stands in its place."""
    made = _of_parts(value, live, stray)
    if made is not None:
        return made
    if is_container(value):
        return merge(value, NOTHING, partial(_leaf_like, stray=stray))
    library, number = library_of(value), isinstance(value, NUMBERS)
    if library is not None or number:
        make = _MAKERS.get(library_of(live))
        if make is not None:
            return make(value, live)
    if library is None:
        return copy.deepcopy(value)
    if isinstance(live, NUMBERS):
        return _number_like(value, live)
    return _MAKERS[library_of(stray) or library](value, None)


def _of_parts(value: Any, live: Any, stray: Any) -> Any:
    """A tensor of what was copied in its place; None where there is no such."""
    parts: Any = value
    if not is_sparse_parts(value):
        return None
    if is_piece(value) and "torch" in {library_of(live), library_of(stray)}:
        several = isinstance(value["values"], (list, tuple))
        values = [tensor_of(one) for one in (value["values"] if several else [value["values"]])]
        parts = {**value, "values": values if several else values[0]}
        return tensor_of_pieces(parts, live, stray)
    if library_of(live) != "torch":
        return None
    parts = {key: tensor_of(one).clone() if library_of(one) else one for key, one in value.items()}
    return sparse_like(parts, live)


def _number_like(value: Any, live: Any) -> Any:
    array = to_host(value)
    if getattr(array, "size", 0) != 1:
        return copy.deepcopy(array)
    number = array.item()
    try:
        as_live = type(live)(number)
    except (TypeError, ValueError, OverflowError):  # a complex number, NaN for an int
        return number
    return as_live if as_live == number else number


def _array_like(value: Any, live: Any) -> Any:
    import numpy as np

    if isinstance(value, RawTensorLike):
        return value
    array = np.array(to_host(value))
    if live is not None:
        array = _cast(array, live.dtype)
    return array[()] if isinstance(live, np.generic) and array.ndim == 0 else array


def _cast(array: Any, dtype: Any) -> Any:
    import numpy as np

    return array.astype(dtype) if np.can_cast(array.dtype, dtype, "same_kind") else array


def _array_of_jax_like(value: Any, live: Any) -> Any:
    import numpy as np

    jax = sys.modules["jax"]
    # JAX takes aligned memory as it is: it gets a copy that nobody else has.
    array = np.array(to_host(value))
    if live is None:
        return jax.numpy.asarray(array)
    if jax.dtypes.issubdtype(live.dtype, jax.dtypes.prng_key):
        array = jax.random.wrap_key_data(array, impl=jax.random.key_impl(live))
    else:
        array = _cast(array, live.dtype)
        if getattr(live, "weak_type", False) and array.dtype == live.dtype:
            # Weak is what JAX makes of Python's numbers, and what is set into that stays weak.
            array = jax.numpy.full(array.shape, array.dtype.type(0).item()).at[...].set(array)
    committed = getattr(live, "committed", True) and array.shape == live.shape
    return jax.device_put(array, live.sharding) if committed else jax.numpy.asarray(array)


def _tensor_like(value: Any, live: Any) -> Any:
    torch = sys.modules["torch"]
    tensor = tensor_of(value).detach()
    if live is None or is_lazy(live):
        return tensor.clone()
    if is_in_pieces(live):
        whole = {"layout": "piece", "size": tensor.shape, "offset": [0] * tensor.ndim}
        return tensor_of_pieces({**whole, "shards": [], "values": tensor}, live, None)
    dtype = live.dtype if torch.can_cast(tensor.dtype, live.dtype) else tensor.dtype
    if live.layout is torch.strided and live.shape == tensor.shape:
        tensor = torch.empty_like(live, dtype=dtype, requires_grad=False).copy_(tensor)
    else:
        tensor = tensor.to(live.device, dtype, copy=True)
    if isinstance(live, torch.nn.Parameter):
        return torch.nn.Parameter(tensor, live.requires_grad)
    return tensor.requires_grad_(live.requires_grad and live.is_leaf)


def tensor_of(value: Any) -> Any:
    """A tensor of PyTorch with these values; may share their memory."""
    import numpy as np

    torch = sys.modules["torch"]
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, RawTensorLike):
        name, bits = value.name, np.frombuffer(value.buffer, np.uint8)
    else:
        array = np.array(value)
        if array.dtype.isbuiltin == 1:
            return torch.from_numpy(array)
        name, bits = array.dtype.name, array.reshape(-1).view(np.uint8)  # of `ml_dtypes`
    return torch.from_numpy(bits.copy()).view(getattr(torch, name)).reshape(value.shape)


def _raw_like(value: Any, live: Any) -> Any:  # noqa: ARG001 - as the others
    return value  # nobody can write to it


_MAKERS: dict[str | None, Callable[[Any, Any], Any]] = {
    "numpy": _array_like,
    "torch": _tensor_like,
    "jax": _array_of_jax_like,
    "store": _raw_like,
}
"""By library: a copy of a plain leaf like the live one, or as it is where that is None."""
