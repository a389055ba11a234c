"""The border between callbacks and a framework: all that a callback may ask of a model.

Only hosts look into users' objects; everything behind this border sees names and numbers. Two hosts
exist: `LoopHost` here, for loops that people write, and `peakhold.keras.KerasHost`. A framework's
own host is found by name, and only if the framework is already imported: whoever passes a Keras
model has imported Keras.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from types import CodeType, FrameType
from typing import Any, BinaryIO, Protocol

from peakhold._core.monitor import Direction
from peakhold._version import __version__
from peakhold.errors import HostError
from peakhold.gradients import GradientFacts
from peakhold.loop_gradients import LoopGradients
from peakhold.resumption import LoopResumption, Resumption

__all__ = [
    "CURVES_WITH_AN_END",
    "CannotPlanError",
    "Host",
    "LoopHost",
    "PlannedFile",
    "Snapshot",
    "host_for",
    "rate_key",
    "to_number",
]

Snapshot = dict[str, Any]
"""Copies in host memory of named parts: `weights`, and what else the host lists in `parts()`."""

WEIGHTS = "weights"
OPTIMIZER = "optimizer"

CURVES_WITH_AN_END = frozenset({"CosineDecay", "PolynomialDecay"})
"""Keras's schedules whose `decay_steps` are the length of the curve, not its slope or period."""


class CannotPlanError(Exception):
    """A file that only the thread that trains can write; the text is the reason."""


class PlannedFile(Protocol):
    """A file that is to be written later, from copies of the model's parts.

    Attributes:
        parts: Names of the parts whose values it needs.
        extra_bytes: Size of what was copied already.
    """

    parts: tuple[str, ...]
    extra_bytes: int

    def write(self, file: BinaryIO, held: Mapping[str, Any]) -> None:
        """Write it, in any thread.

        Args:
            file: As for `Host.write`.
            held: The parts, as they were when the file was planned.
        """


class Host(Protocol):
    """All that a callback may ask of the world of one training run.

    A method that cannot answer returns None where the type says so; what cannot be done raises
    `HostError`. All methods are called on the thread that trains.
    """

    def describe(self) -> str:
        """What is trained, in a few words, for messages."""

    # State
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that `snapshot` can copy; empty if there is no state to reach."""

    def live(self, parts: Iterable[str]) -> Snapshot:
        """The parts as they are in the model, as far as possible without a copy.

        Trees of NumPy arrays, PyTorch tensors and plain values: to be copied at once, and let go
        before training goes on, which may overwrite them or else would have to copy.
        """

    def complete(self, parts: Iterable[str]) -> bool:
        """Whether all arrays of these parts are there; makes them be, where that is harmless."""

    def named(self, part: str, tree: Any) -> list[tuple[str, Any]]:
        """Names and arrays of a part's tree, for messages; may be looked at in another thread."""

    def snapshot(self, parts: Iterable[str]) -> Snapshot:
        """Copy parts; later changes of the model change nothing in the copy."""

    def restore(self, snapshot: Snapshot) -> None:
        """Put copied parts back."""

    def nonfinite(self) -> frozenset[str]:
        """Names of float variables of model and optimizer that hold NaN or infinity now."""

    def nonfinite_in(self, snapshot: Snapshot) -> frozenset[str]:
        """The same for the weights of a snapshot."""

    def state_bytes(self) -> int | None:
        """Size of model and optimizer in bytes, or None if they are not built yet."""

    def named_weights(self) -> Iterable[tuple[str, Any]]:
        """Name and values of each weight as they are now, one at a time, as arrays of NumPy."""

    def steps_done(self) -> int | None:
        """Updates of the model so far, in all runs, if the optimizer counts them."""

    # Gradients
    def gradient_facts(self) -> GradientFacts | None:
        """What the gradients amount to since `forget_gradients`; None where none can be seen.

        Waits for the device.
        """

    def forget_gradients(self) -> None:
        """Begin anew; at the beginning of a run or an epoch, by whoever will ask for the facts."""

    def gradients(self) -> Iterable[tuple[str, Any]] | None:
        """Names and arrays of the last batch's gradients; None where they cannot be had.

        Nothing is in it before the first batch, or if a loop has thrown them away.
        """

    def check_gradients(self, callback: str, *, arrays: bool) -> None:
        """Raise now if there will be no facts or, with `arrays`, no arrays."""

    # Learning rates
    def learning_rates(self) -> dict[str, float]:
        """Rate by optimizer name (empty name: the only one); `{}` if there is none to read."""

    def set_learning_rate(self, name: str, value: float) -> None:
        """Set one rate."""

    def check_rates_settable(self, callback: str) -> None:
        """Raise now if `set_learning_rate` would raise later."""

    def rate_schedule(self) -> tuple[str, int] | None:
        """A curve that the optimizer follows: its name, and the steps from now to its end.

        None without one, or if it has no end. A hint.
        """

    # Control
    def request_stop(self) -> None:
        """Ask the loop to end at the next point where it looks. Safe in a signal handler."""

    def clear_stop(self) -> None:
        """Forget an earlier loop's request, so that the next one is not stopped by it."""

    def owns_frame(self, frame: FrameType) -> bool:
        """Whether this frame is the loop that trains (a stale signal handler asks)."""

    # Files
    def file_suffixes(self) -> tuple[str, ...] | None:
        """Suffixes that `write` understands; None: any, the user's own function decides."""

    def write(self, file: BinaryIO, suffix: str, scratch: str) -> None:
        """Write the model to an open file.

        Args:
            file: A real file, opened for writing and reading, at its start.
            suffix: One of `file_suffixes()`.
            scratch: A folder on the same file system, for a writer that insists on a path.
        """

    def plan_file(self, suffix: str) -> PlannedFile:
        """Note what `write` would write now, but for the values of parts.

        Raises:
            CannotPlanError: If this file cannot be written later, from copies.
        """

    def runs_fit(self) -> bool:
        """Whether the framework's own training loop is running, which reads no file of ours.

        Nobody knows what a loop that a user wrote does right after an event.
        """

    def versions(self) -> dict[str, str]:
        """Of Peakhold and of the framework, for what is written."""

    # Resume
    def resumption(self) -> Resumption:
        """What a resume asks beyond this."""

    # Metrics
    def metric_names(self) -> tuple[str, ...] | None:
        """Names of the training metrics, if they are already known to be complete."""

    def metric_directions(self) -> dict[str, Direction | None]:
        """Direction by training name, as far as the metrics themselves tell."""

    def validates(self) -> bool | None:
        """Whether validation will run. A hint: never a ground for an error."""

    def first_validation(self) -> int | None:
        """The epoch, from 1, after which validation is due first, in this run or beyond.

        None if it was not asked for, or that cannot be seen. A hint.
        """

    # Words
    def say(self, message: str) -> None:
        """Show a message to the person who watches training."""


def rate_key(name: str) -> str:
    """The key under which a learning rate is logged: Keras's."""
    return f"learning_rate_{name}" if name else "learning_rate"


def to_number(value: Any) -> float | None:
    """One number out of a log value, or None if it is not one.

    Python numbers, NumPy scalars, 0-d tensors of any framework and device, and arrays with a single
    element are numbers. Reading a tensor waits for its device.
    """
    if isinstance(value, float):
        return value
    if isinstance(value, (str, bytes, Mapping)) or value is None:
        return None
    if hasattr(value, "detach"):  # torch warns of a number taken from a graph
        value = value.detach()
    shape = tuple(getattr(value, "shape", ()))
    if shape:
        if math.prod(shape) != 1:
            return None
        if not hasattr(value, "reshape"):  # TensorFlow's
            import numpy as np

            value = np.asarray(value)
        value = value.reshape(())
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def host_for(model: Any, optimizer: Any = None) -> Host:
    """The host that knows this model."""
    for framework in ("keras",):
        if framework in sys.modules:
            package = importlib.import_module(f"peakhold.{framework}")
            host: Host | None = package.host_for(model, optimizer)
            if host is not None:
                return host
    return LoopHost(model, optimizer=optimizer)


def nonfinite_names(arrays: Iterable[tuple[str, Any]]) -> frozenset[str]:
    import numpy as np

    bad = set()
    for name, array in arrays:
        values = np.asarray(_to_host(array))
        # ml_dtypes (bfloat16, float8) are not of kind "f", but know isfinite all the same.
        if values.dtype.kind not in "fcV" or values.size == 0:
            continue
        if values.dtype.name == "bfloat16":
            # As bits, which does not keep other threads out; all ones in the exponent is no number.
            if any((piece & 0x7F80 == 0x7F80).any() for piece in _pieces(values, np.uint16)):
                bad.add(name)
            continue
        if values.dtype.kind == "V":
            values = values.astype(np.float32)
        with np.errstate(all="ignore"):
            # A finite sum has finite terms; only a sum that is not needs the look at each of them.
            finite = bool(np.isfinite(values.sum())) or bool(np.isfinite(values).all())
        if not finite:
            bad.add(name)
    return frozenset(bad)


def _pieces(values: Any, bits: Any) -> Iterable[Any]:
    """An array as bits, a piece at a time."""
    import numpy as np

    flat = np.ascontiguousarray(values).reshape(-1).view(bits)
    return (flat[start : start + (1 << 20)] for start in range(0, flat.size, 1 << 20))


class LoopHost:
    """The host of a loop that a user wrote, in any framework or none.

    Args:
        model: Something with `get_weights()` and `set_weights()`, or with `state_dict()` and
            `load_state_dict()` (a `torch.nn.Module`), or None. Its `stop_training` is set where it
            takes attributes.
        optimizer: A `torch.optim.Optimizer`, or anything with a `learning_rate` that can be set.
        get_state: Instead of the model's methods, a function that returns the weights as nested
            dicts, lists and tuples of arrays (JAX: `lambda: params`).
        set_state: The function that takes them back.
        get_learning_rate: A function that returns the rate, if no optimizer object holds it.
        set_learning_rate: The function that sets it.
        save: `save(path)` writes the model in a format of your own; any suffix is allowed then.
        get_gradients: A function that returns the last batch's gradients as nested dicts, lists and
            tuples of arrays. It is asked at each batch by a callback that looks at each, such as
            `TerminateOnNaN`, else at the end of an epoch. Loops of PyTorch need none: the
            optimizer's gradients are looked at in each of its steps.

    Example:
        >>> params = {"w": [1.0]}
        >>> host = LoopHost(get_state=lambda: params, set_state=params.update)
        >>> copy = host.snapshot(["weights"])
        >>> params["w"] = [2.0]
        >>> host.restore(copy)
        >>> params
        {'w': [1.0]}
    """

    def __init__(
        self,
        model: Any = None,
        *,
        optimizer: Any = None,
        get_state: Callable[[], Any] | None = None,
        set_state: Callable[[Any], Any] | None = None,
        get_learning_rate: Callable[[], float] | None = None,
        set_learning_rate: Callable[[float], Any] | None = None,
        save: Callable[[str], Any] | None = None,
        get_gradients: Callable[[], Any] | None = None,
    ) -> None:
        self.model = model
        self.optimizer: Any = (
            optimizer if optimizer is not None else getattr(model, "optimizer", None)
        )
        self._get_state, self._set_state = get_state, set_state
        if get_state is None and hasattr(model, "get_weights"):
            self._get_state, self._set_state = model.get_weights, model.set_weights
        elif get_state is None and hasattr(model, "state_dict"):
            self._get_state, self._set_state = model.state_dict, model.load_state_dict
        self._get_rate, self._set_rate = get_learning_rate, set_learning_rate
        self._save = save
        given = None if get_gradients is None else lambda: _leaves(get_gradients())
        self._gradients = LoopGradients(model, self.optimizer, given)
        self._code: CodeType | None = None
        self.stop_training = False

    def describe(self) -> str:
        return "a loop" if self.model is None else type(self.model).__name__

    # State

    def parts(self) -> tuple[str, ...]:
        has_optimizer = hasattr(self.optimizer, "load_state_dict")
        return ((WEIGHTS,) if self._get_state and self._set_state else ()) + (
            (OPTIMIZER,) if has_optimizer else ()
        )

    def live(self, parts: Iterable[str]) -> Snapshot:
        trees: Snapshot = {}
        for part in parts:
            if part == WEIGHTS and self._get_state:
                trees[part] = _array_tree(self._get_state())
            elif part == OPTIMIZER:
                trees[part] = _array_tree(self.optimizer.state_dict())
        return trees

    def complete(self, parts: Iterable[str]) -> bool:
        return True

    def named(self, part: str, tree: Any) -> list[tuple[str, Any]]:
        return list(_leaves(tree, convert=False))

    def snapshot(self, parts: Iterable[str]) -> Snapshot:
        return {part: _copy_tree(tree) for part, tree in self.live(parts).items()}

    def restore(self, snapshot: Snapshot) -> None:
        # Copies again: a loop may train on from what it was given, and our copy stays good.
        if WEIGHTS in snapshot and self._set_state:
            self._set_state(_copy_tree(snapshot[WEIGHTS]))
        if OPTIMIZER in snapshot:
            self.optimizer.load_state_dict(_copy_tree(snapshot[OPTIMIZER]))

    def nonfinite(self) -> frozenset[str]:
        return nonfinite_names(_leaves(self._get_state())) if self._get_state else frozenset()

    def nonfinite_in(self, snapshot: Snapshot) -> frozenset[str]:
        return nonfinite_names(_leaves(snapshot.get(WEIGHTS)))

    def state_bytes(self) -> int | None:
        if not self._get_state:
            return None
        return sum(getattr(leaf, "nbytes", 8) for _, leaf in _leaves(self._get_state()))

    def named_weights(self) -> Iterable[tuple[str, Any]]:
        return _leaves(self._get_state()) if self._get_state else ()

    def steps_done(self) -> int | None:
        return None

    # Gradients

    def gradient_facts(self) -> GradientFacts | None:
        return self._gradients.facts()

    def forget_gradients(self) -> None:
        self._gradients.forget()

    def gradients(self) -> Iterable[tuple[str, Any]] | None:
        arrays = self._gradients.arrays()
        return None if arrays is None else ((name, _to_host(array)) for name, array in arrays)

    def check_gradients(self, callback: str, *, arrays: bool) -> None:
        if not self._gradients.seen:
            raise HostError.lacks(
                callback,
                "gradients that can be seen",
                self.describe(),
                hint="pass CallbackList(..., optimizer=optimizer) with an optimizer of PyTorch, or "
                "host=LoopHost(get_gradients=...).",
            )

    # Learning rates

    def learning_rates(self) -> dict[str, float]:
        if self._get_rate is not None:
            return {"": float(self._get_rate())}
        groups = getattr(self.optimizer, "param_groups", None)
        if groups is not None:
            single = len(groups) == 1
            return {"" if single else str(i): float(g["lr"]) for i, g in enumerate(groups)}
        rate = getattr(self.optimizer, "learning_rate", None)
        return {} if rate is None else {"": float(rate)}

    def set_learning_rate(self, name: str, value: float) -> None:
        groups = getattr(self.optimizer, "param_groups", None)
        if self._set_rate is not None:
            self._set_rate(value)
        elif groups is not None:
            group = groups[int(name or 0)]
            if hasattr(group["lr"], "fill_"):  # capturable optimizers keep a tensor
                group["lr"].fill_(value)
            else:
                group["lr"] = value
        else:
            self.optimizer.learning_rate = value

    def check_rates_settable(self, callback: str) -> None:
        if not self.learning_rates() or (self._get_rate is not None and self._set_rate is None):
            raise HostError.lacks(
                callback,
                "an optimizer whose learning rate can be set",
                self.describe(),
                hint="pass CallbackList(..., optimizer=optimizer), or "
                "host=LoopHost(get_learning_rate=..., set_learning_rate=...).",
            )

    def rate_schedule(self) -> tuple[str, int] | None:
        return None

    # Control

    def request_stop(self) -> None:
        self._set_flag(stop=True)

    def clear_stop(self) -> None:
        self._set_flag(stop=False)

    def _set_flag(self, *, stop: bool) -> None:
        self.stop_training = stop
        # None, frozen and slotted objects take no attribute: there the list tells.
        with contextlib.suppress(AttributeError, TypeError):
            self.model.stop_training = stop

    def remember_loop(self, frame: FrameType) -> None:
        """Note whose loop this is, by its code; keeping the frame would keep its data alive."""
        self._code = frame.f_code

    def owns_frame(self, frame: FrameType) -> bool:
        return frame.f_code is self._code

    # Files

    def file_suffixes(self) -> tuple[str, ...] | None:
        if self._save is not None:
            return None
        return (".safetensors",) if self._get_state else ()

    def write(self, file: BinaryIO, suffix: str, scratch: str) -> None:
        import os
        import shutil
        import tempfile

        if self._save is None:
            file.write(_safetensors(self._get_state() if self._get_state else {}))
            return
        with tempfile.TemporaryDirectory(dir=scratch, prefix=".peakhold-") as folder:
            path = os.path.join(folder, f"model{suffix}")
            self._save(path)
            with open(path, "rb") as written:
                shutil.copyfileobj(written, file, 1 << 20)

    def plan_file(self, suffix: str) -> PlannedFile:
        if self._save is not None:
            raise CannotPlanError("the loop's own save() needs the model itself")
        if not self._get_state:
            raise CannotPlanError("there is no state to copy")
        return _PlannedSafetensors()

    def runs_fit(self) -> bool:
        return False

    def versions(self) -> dict[str, str]:
        return {"peakhold": __version__}

    # Resume

    def resumption(self) -> Resumption:
        return LoopResumption(self)

    # Metrics

    def metric_names(self) -> tuple[str, ...] | None:
        return None

    def metric_directions(self) -> dict[str, Direction | None]:
        return {}

    def validates(self) -> bool | None:
        return None

    def first_validation(self) -> int | None:
        return None

    # Words

    def say(self, message: str) -> None:
        print(message, flush=True)


class _PlannedSafetensors:
    parts: tuple[str, ...] = (WEIGHTS,)
    extra_bytes = 0

    def write(self, file: BinaryIO, held: Mapping[str, Any]) -> None:
        file.write(_safetensors(held[WEIGHTS]))


def _leaves(tree: Any, prefix: str = "", *, convert: bool = True) -> Iterable[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        pairs: Iterable[tuple[Any, Any]] = tree.items()
    elif isinstance(tree, (list, tuple)):
        pairs = enumerate(tree)
    else:
        if tree is not None:
            yield prefix or "0", _to_host(tree) if convert else tree
        return
    for key, value in pairs:
        yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key), convert=convert)


def _to_host(leaf: Any) -> Any:
    """A tensor of torch as an array of NumPy, without a copy where possible; else the leaf."""
    if hasattr(leaf, "detach"):
        leaf = leaf.detach().cpu()
        # NumPy has no bfloat16: widen, which keeps every value (and NaN, and infinity).
        narrow = leaf.is_floating_point() and leaf.element_size() < 4
        return (leaf.float() if narrow else leaf).numpy()
    return leaf


def _copy_tree(tree: Any) -> Any:
    """A deep copy in which every array is a new one that may be written to."""
    return map_tree(_array_tree(tree), _copy_leaf)


def _copy_leaf(leaf: Any) -> Any:
    import copy

    if hasattr(leaf, "detach"):
        return leaf.detach().clone()
    return copy.deepcopy(leaf)


def _array_tree(tree: Any) -> Any:
    """The same tree with other frameworks' arrays as NumPy's; PyTorch's stay."""
    return map_tree(tree, _as_array)


def _as_array(leaf: Any) -> Any:
    if hasattr(leaf, "detach") or not hasattr(leaf, "__array__") or isinstance(leaf, type):
        return leaf
    import numpy as np

    if isinstance(leaf, np.generic):
        return leaf
    try:
        return np.asarray(leaf)
    except TypeError:  # a typed key of JAX: immutable, and never donated by accident
        return leaf


def map_tree(tree: Any, visit: Callable[[Any], Any]) -> Any:
    """The same tree with `visit(leaf)` for each leaf, in order."""
    if isinstance(tree, Mapping):
        return {key: map_tree(value, visit) for key, value in tree.items()}
    if isinstance(tree, list):
        return [map_tree(value, visit) for value in tree]
    if isinstance(tree, tuple):
        items = [map_tree(value, visit) for value in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    return visit(tree)


def _safetensors(tree: Any) -> bytes:
    """The tree's arrays under dotted names, in the format of safetensors."""
    leaves = dict(_leaves(tree, convert=False))
    if any(hasattr(leaf, "detach") for leaf in leaves.values()):
        of_torch = importlib.import_module("safetensors.torch")
        # The format knows no shared memory: tied weights are written once for each name.
        return bytes(
            of_torch.save({name: leaf.detach().cpu().clone() for name, leaf in leaves.items()})
        )
    import numpy as np
    from safetensors.numpy import save

    return bytes(save({name: np.array(leaf, order="C") for name, leaf in leaves.items()}))
