"""Gradients, seen where every backend of Keras hands them over: in the optimizer's `apply`.

Rules of this file:

1. A watched optimizer does what it did: the same updates, bit by bit, the same variables for
   whoever saves, the same configuration. It gets an `apply` and a `build` of its own, as attributes
   of the instance, and stays of its class.
2. What is seen stays on the device until somebody asks. TensorFlow and JAX trace `apply`: there
   two small variables hold what the batches amount to. PyTorch runs it: there norms queue up.
3. On JAX all that `apply` changes must be among `optimizer.variables`, which the trainer threads
   through its compiled step. So the watch's are, there, but not for Keras's saving functions. Who
   asks is seen by the caller's frame. What is saved depends on a frame here, an exception (ADR
   0006): those who ask are a function of a module and whatever optimizer is around this one, and
   neither can be a subclass of ours. If a Keras saves otherwise, nothing is watched.
4. What is watched are the gradients that `apply` gets, before clipping, decay and accumulation,
   with a fixed `loss_scale_factor` taken out.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import keras
from peakhold.errors import HostError, InvalidArgumentError
from peakhold.host.gradients import GradientFacts, GradientTally, norm_of_tensors

__all__ = ["own_variables", "watch_gradients", "watch_of"]

_SAVING = frozenset(
    {"save_own_variables", "load_own_variables", "save_optimizer_weights_to_hdf5_group"}
)
"""Functions of Keras that put `optimizer.variables` into a file, or take them out of one."""

_ATTRIBUTE = "_peakhold_watch"


def watch_gradients(optimizer: Any, *, keep: bool = False) -> Any:
    """Have an optimizer note the norm of its gradients, so that callbacks know an explosion's step.

    Give what it returns to `compile`. `TerminateOnNaN` then stops at the batch whose gradients are
    not finite, alerts know `gradient_norm`, and `TensorBoard(write_gradients=True)` draws it.
    Training, saved files and backups stay as they are without the watch.

    Seen are the gradients of each batch as the optimizer gets them, before clipping. Inside a
    `LossScaleOptimizer` (`mixed_float16` makes one) they are those after unscaling; a batch whose
    gradients overflowed is skipped by it and not seen. On several devices, one sees its own.

    Args:
        optimizer: An optimizer of Keras, or its name. It is watched from now on, in place.
        keep: Whether the last batch's gradients are kept, for histograms. On TensorFlow and JAX
            this takes the memory of the trainable weights once more. PyTorch's parameters have
            them anyway, but inside a `LossScaleOptimizer`. Defaults to `False`.

    Returns:
        The same optimizer.

    Raises:
        InvalidArgumentError: If it is no optimizer of Keras.
        HostError: On JAX, if this version of Keras saves optimizers in another way.

    Example:
        >>> import keras, numpy as np
        >>> from peakhold.keras import KerasHost
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.compile(watch_gradients(keras.optimizers.SGD(0.0)), "mse")
        >>> _ = model.layers[0].kernel.assign([[3.0]])
        >>> _ = model.fit(np.ones((4, 1)), np.zeros((4, 1)), verbose=0)
        >>> KerasHost(model).gradient_facts().norm
        6.0
    """
    optimizer = keras.optimizers.get(optimizer) if isinstance(optimizer, str) else optimizer
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise InvalidArgumentError.for_argument(
            "optimizer",
            optimizer,
            "an optimizer of Keras",
            hint="pass watch_gradients(keras.optimizers.Adam()) to model.compile.",
        )
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    watch = vars(inner).get(_ATTRIBUTE)
    if watch is None:
        threads = keras.backend.backend() == "jax"
        if threads:
            _check_saving()
        watch = _watch_class()(inner)
        _hook(inner, watch)
        if threads:
            base: Any = type(inner)
            object.__setattr__(inner, "__class__", _threading(base))
    if keep:
        watch.keep(inner)
    return optimizer


def watch_of(optimizer: Any) -> Any:
    """The watch of an optimizer, or of the one it scales the loss for; None without."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return getattr(inner, _ATTRIBUTE, None)


def own_variables(optimizer: Any) -> list[Any]:
    """The optimizer's variables as they are without a watch."""
    watch = watch_of(optimizer)
    watching = set() if watch is None else set(map(id, watch.variables))
    return [variable for variable in optimizer.variables if id(variable) not in watching]


def _hook(optimizer: Any, watch: Any) -> None:
    """Have the watch called ahead of `build` and `apply`."""
    build, apply = optimizer.build, optimizer.apply

    def watched_build(variables: Any) -> None:
        build(variables)
        watch.build(variables)

    def watched_apply(grads: Any, trainable_variables: Any = None) -> Any:
        grads = list(grads)
        if trainable_variables is not None:  # may be an iterator
            trainable_variables = list(trainable_variables)
        watch.note(optimizer, grads, trainable_variables)
        return apply(grads, trainable_variables)

    # Not by `setattr`, in which Keras and TensorFlow look for variables to track.
    vars(optimizer).update({_ATTRIBUTE: watch, "build": watched_build, "apply": watched_apply})


@functools.cache
def _threading(base: Any) -> Any:
    """A class like `base`, whose variables are also the watch's."""

    # `variables` cannot call `super()`: in a class body that also sets `__class__`, the name that
    # `super()` needs is lost (bpo-12370).
    class WatchedOptimizer(base):  # type: ignore[misc]
        # The object was made as one of `base`, so no `__new__` of Keras's ever sees this class.
        __class__ = property(lambda _: base)
        __doc__ = base.__doc__

        @property
        def variables(self) -> Any:
            variables = base.variables.fget(self)
            if _is_being_saved(sys._getframe(1)):
                return variables
            return [*variables, *vars(self)[_ATTRIBUTE].variables]

        def __reduce__(self) -> Any:
            function, arguments = base.__reduce__(self)
            return getattr(base, function.__name__), arguments

    WatchedOptimizer.__name__, WatchedOptimizer.__qualname__ = base.__name__, base.__qualname__
    WatchedOptimizer.__module__ = base.__module__
    return WatchedOptimizer


def _check_saving() -> None:
    """Raise if Keras puts variables into files by functions of other names."""
    from keras.src.legacy.saving import legacy_h5_format
    from keras.src.optimizers.base_optimizer import BaseOptimizer

    known = {**vars(BaseOptimizer), **vars(legacy_h5_format)}
    if any("variables" not in _names_in(known.get(name)) for name in _SAVING):
        raise HostError.lacks(
            "watch_gradients",
            "a version of Keras that saves optimizers by functions that are known",
            f"keras {keras.__version__}",
            hint="leave watch_gradients out, or use the PyTorch or TensorFlow backend.",
        )


def _names_in(function: Any) -> tuple[str, ...]:
    names: tuple[str, ...] = getattr(getattr(function, "__code__", None), "co_names", ())
    return names


def _is_being_saved(frame: Any) -> bool:
    """Whether this frame, which asks for an optimizer's variables, puts them into a file."""
    while frame is not None and frame.f_code.co_name == "variables":  # of an optimizer around it
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name in _SAVING


def _watch_class() -> Any:
    return _QueueWatch if keras.backend.backend() == "torch" else _VariableWatch


def _pairs(optimizer: Any, grads: list[Any], variables: Any) -> list[tuple[Any, Any]]:
    """Each gradient that is one, and its variable."""
    known = optimizer._trainable_variables if variables is None else variables
    return [
        (gradient, variable)
        for gradient, variable in zip(grads, known, strict=False)
        if gradient is not None and not getattr(variable, "overwrite_with_gradient", False)
    ]


class _QueueWatch:
    """Where `apply` runs: norms queue up on the device, and gradients are tensors to hold."""

    variables: tuple[Any, ...] = ()

    def __init__(self, optimizer: Any) -> None:
        self._tally = GradientTally()
        self._keeps = False
        self._kept: list[tuple[Any, Any]] = []
        self._variables: list[Any] = list(optimizer._trainable_variables)
        self._scale: float | None = None

    def keep(self, optimizer: Any) -> None:
        self._keeps = True

    def build(self, variables: Any) -> None:
        self._variables = list(variables)

    def note(self, optimizer: Any, grads: list[Any], variables: Any) -> None:
        pairs = _pairs(optimizer, grads, variables)
        norm = norm_of_tensors(gradient for gradient, _ in pairs)
        if norm is None:
            return
        self._scale = optimizer.loss_scale_factor
        norm = norm if self._scale is None else norm / self._scale
        self._tally.add(norm, optimizer._iterations.value)
        if self._keeps:
            self._kept = pairs

    # `torch.compile` would compile anew for each length of the queue. What `torch.compiler.disable`
    # sets, without its import of the compiler, which takes seconds.
    note._torchdynamo_disable = True  # type: ignore[attr-defined]

    def facts(self, now: Callable[[Any], Any]) -> GradientFacts:
        return self._tally.facts()

    def forget(self) -> None:
        self._tally.forget()

    def gradients(self, *, scaled: bool) -> Iterable[tuple[str, Any]] | None:
        """Names and arrays; `scaled`: whether those of the parameters are of a scaled loss."""
        if self._keeps:
            return ((v.path, self._array(gradient)) for gradient, v in self._kept)
        if scaled:
            return None
        return (
            (variable.path, self._array(variable.value.grad))
            for variable in self._variables
            if variable.value.grad is not None
        )

    def _array(self, gradient: Any) -> Any:
        array = keras.ops.convert_to_numpy(gradient)
        return array if self._scale is None else array / self._scale


class _VariableWatch:
    """Where `apply` is traced: two variables hold what the batches amount to."""

    def __init__(self, optimizer: Any) -> None:
        self._name = optimizer.name
        self._norms = self._variable((2,), "float32", "gradient_norms")
        """Of the last batch, and the largest."""
        self._steps = self._variable((3,), "int32", "gradient_steps")
        """Of the largest, how many were not finite, and the first of these."""
        self._keeps = False
        self._kept: list[Any] = []
        self._built: list[Any] = []
        self._scale: float | None = None
        self.forget()

    def _variable(self, shape: Any, dtype: str, name: str, layout: Any = None) -> Any:
        return keras.Variable(
            initializer="zeros",
            shape=shape,
            dtype=dtype,
            trainable=False,
            aggregation="only_first_replica",
            layout=layout,
            name=f"{self._name}_{name}",
        )

    @property
    def variables(self) -> tuple[Any, ...]:
        return (self._norms, self._steps, *self._kept)

    def keep(self, optimizer: Any) -> None:
        if not self._keeps:
            self._keeps = True
            if optimizer.built:
                self.build(optimizer._trainable_variables)

    def build(self, variables: Any) -> None:
        if self._keeps and not self._kept:
            self._built = list(variables)
            self._kept = [
                self._variable(
                    variable.shape,
                    variable.dtype,
                    f"{variable.path.replace('/', '_')}_gradient",
                    getattr(variable, "_layout", None),
                )
                for variable in self._built
            ]

    def note(self, optimizer: Any, grads: list[Any], variables: Any) -> None:
        if self._keeps and not optimizer.built and variables is not None:
            from keras.src import backend

            with backend.name_scope(optimizer.name, caller=optimizer):  # as `apply` does
                optimizer.build(variables)
        pairs = _pairs(optimizer, grads, variables)
        if not pairs:
            return
        ops = keras.ops
        self._scale = optimizer.loss_scale_factor
        squares = [ops.sum(ops.square(_values(gradient))) for gradient, _ in pairs]
        norm = ops.sqrt(ops.sum(ops.stack(squares)))
        norm = norm if self._scale is None else norm / self._scale
        self._add(norm, ops.cast(optimizer._iterations.value, "int32") + 1)
        for gradient, variable in pairs if self._kept else ():
            kept = self._kept[optimizer._get_variable_index(variable)]
            kept.assign(ops.cast(ops.convert_to_tensor(gradient), kept.dtype))

    def _add(self, norm: Any, step: Any) -> None:
        # `GradientFacts.after`, in the framework's words.
        ops = keras.ops
        largest = self._norms.value[1]
        largest_step, n_nonfinite, first = (self._steps.value[i] for i in range(3))
        finite = ops.isfinite(norm)
        size = ops.where(finite, norm, ops.full_like(norm, float("inf")))
        larger = size > largest
        is_first = ops.logical_and(ops.logical_not(finite), n_nonfinite == 0)
        self._norms.assign(ops.stack([norm, ops.where(larger, size, largest)]))
        self._steps.assign(
            ops.stack(
                [
                    ops.where(larger, step, largest_step),
                    n_nonfinite + ops.cast(ops.logical_not(finite), "int32"),
                    ops.where(is_first, step, first),
                ]
            )
        )

    def facts(self, now: Callable[[Any], Any]) -> GradientFacts:
        norm, largest = keras.ops.convert_to_numpy(now(self._norms)).tolist()
        if largest < 0:
            return GradientFacts()
        at, n_nonfinite, first = keras.ops.convert_to_numpy(now(self._steps)).tolist()
        return GradientFacts(norm, largest, at, n_nonfinite, first if n_nonfinite else None)

    def forget(self) -> None:
        self._norms.assign(np.array([0.0, -1.0], "float32"))
        self._steps.assign(np.zeros(3, "int32"))

    def gradients(self, *, scaled: bool) -> Iterable[tuple[str, Any]] | None:
        """Names and arrays; None if they are not kept."""
        if not self._keeps:
            return None
        return (
            (variable.path, keras.ops.convert_to_numpy(kept) / (self._scale or 1))
            for variable, kept in zip(self._built, self._kept, strict=True)
        )


def _values(gradient: Any) -> Any:
    """A gradient as float32, for its norm."""
    if hasattr(gradient, "dense_shape"):  # TensorFlow's IndexedSlices
        gradient = _summed(gradient)
    return keras.ops.cast(gradient, "float32")


def _summed(slices: Any) -> Any:
    """Rows of a sparse gradient, each once: those of the same index belong together.

    Sorted, because shapes must be known for XLA, and `tf.unique` has none.
    """
    import tensorflow as tf

    indices = tf.reshape(slices.indices, [-1])
    order = tf.argsort(indices)
    rows = tf.gather(indices, order)
    begins = tf.cast(rows[1:] != rows[:-1], "int32")
    segments = tf.cumsum(tf.concat([tf.zeros_like(rows[:1], "int32"), begins], 0))
    return tf.math.unsorted_segment_sum(
        tf.gather(slices.values, order), segments, tf.shape(indices)[0]
    )
