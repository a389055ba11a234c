"""The host of a Keras model, on any backend.

Rules of this file:

1. Methods are tested for, never names of backends: more backends will come.
2. On JAX a model's variables are stale inside an epoch until they are synced, and buffers are
   donated to the next step: read through `synced()`, and copy.
3. A flag may be set on the model without a sync, also in a signal handler.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType, FrameType
from typing import Any, BinaryIO, TypeVar

import numpy as np

import keras
from peakhold import speech
from peakhold._core.monitor import Direction
from peakhold._version import __version__
from peakhold.errors import HostError, LearningRateScheduleError
from peakhold.host.contract import (
    AVERAGE,
    CURVES_WITH_AN_END,
    OPTIMIZER,
    WEIGHTS,
    CannotPlanError,
    Parts,
)
from peakhold.host.finite import nonfinite_names
from peakhold.host.gradients import GradientFacts
from peakhold.host.module_names import unwrapped
from peakhold.host.spread import refuse_spread
from peakhold.keras.files import plan as file_plan
from peakhold.keras.files import saving
from peakhold.keras.files.planned_file import PlannedKerasFile, places_of
from peakhold.keras.files.undistributed import is_distributed
from peakhold.keras.fit.frame import first_validation, fit_runs, is_fit_of, validation_runs
from peakhold.keras.host.gradients import own_variables, watch_of
from peakhold.keras.host.joint import own_part, refuse_joint, spans_workers
from peakhold.keras.host.resume import KerasResumption
from peakhold.snapshots.arrays import source_of
from peakhold.trees import map_tree

__all__ = ["FitHost", "KerasHost", "host_for"]

N = TypeVar("N", int, float)

SEEDS, METRICS = "seeds", "metrics"
IN_EVERY_BACKUP = (SEEDS, METRICS)
"""Parts that callbacks do not copy, and that only a resume puts back."""
_MANY = 100
"""Members of a list that may be one of optimizers: a longer one is data, and not looked through."""
_DIRECTIONS: dict[Any, Direction] = {"up": Direction.MAX, "down": Direction.MIN}


def host_for(model: Any, optimizer: Any = None) -> KerasHost | None:
    """The host of a Keras model, whatever of PyTorch's wraps it; None for anything else."""
    inner = model if isinstance(model, keras.Model) else unwrapped(model)
    return KerasHost(inner, optimizer) if isinstance(inner, keras.Model) else None


class FitHost:
    """What hosts of a Keras 3 and of a Keras 2 model share: the model, and the loop that trains it.

    Args:
        model: It, held weakly.
        optimizer: The optimizer of a loop that does not compile the model; None: the model's own.
    """

    def __init__(self, model: Any, optimizer: Any = None) -> None:
        self._model = weakref.ref(model)
        self._given_optimizer = optimizer
        self._code: CodeType | None = None

    @property
    def model(self) -> Any:
        """The model, without a sync."""
        model = self._model()
        if model is None:
            raise HostError.lacks("a callback", "a model", None, hint="keep the model alive.")
        return model

    @property
    def optimizer(self) -> Any:
        """The optimizer; None without one."""
        if self._given_optimizer is not None:
            return self._given_optimizer
        return getattr(self.model, "optimizer", None)  # a model that is not compiled has none

    def describe(self) -> str:
        """What is trained, in a few words, for messages."""
        return f"{type(self.model).__name__} {self.model.name!r}"

    # The loop

    def request_stop(self) -> None:
        """Have the loop end after this batch; safe in a signal handler."""
        self.model.stop_training = True

    def clear_stop(self) -> None:
        """Forget an earlier loop's request."""
        self.model.stop_training = False

    def stop_requested(self) -> bool:
        """Whether somebody has asked for the end."""
        model = self._model()
        return bool(getattr(model, "stop_training", False))

    def remember_loop(self, frame: FrameType) -> None:
        """A loop that somebody wrote begins, or `fit`."""
        self._code = None if is_fit_of(frame, self.model) else frame.f_code

    def owns_frame(self, frame: FrameType) -> bool:
        """Whether this frame is the loop that trains."""
        model = self._model()
        return frame.f_code is self._code or (model is not None and is_fit_of(frame, model))

    def runs_fit(self) -> bool:
        """Whether `fit` is running."""
        model = self._model()
        return model is not None and fit_runs(model)

    def validates(self) -> bool | None:
        """Whether validation will run; a hint."""
        model = self._model()
        return None if model is None else validation_runs(model)

    def first_validation(self) -> int | None:
        """The epoch, from 1, after which validation is due first; a hint."""
        model = self._model()
        return None if model is None else first_validation(model)


class KerasHost(FitHost):
    """A Keras model, as callbacks see it.

    Args:
        model: A `keras.Model`.
        optimizer: The optimizer of a loop that does not compile the model; None: the model's own.
    """

    def __init__(self, model: Any, optimizer: Any = None) -> None:
        super().__init__(model, optimizer)
        self._n_layers, self._below = -1, list[Any]()

    def synced(self) -> Any:
        """The model, with its variables as training has them now."""
        model = self.model
        sync = getattr(model, "state_sync", None) or getattr(model, "jax_state_sync", None)
        if sync is not None:
            sync()
        return model

    # State

    def parts(self) -> tuple[str, ...]:
        optimizer = self.optimizer
        if optimizer is None and not self.further_optimizers():
            return (WEIGHTS,)
        average = (AVERAGE,) if _averages(optimizer) else ()
        return (WEIGHTS, *average, OPTIMIZER)

    def _variables(self, part: str) -> list[Any]:
        """The variables of a part, in the order in which it lists them."""
        if part == WEIGHTS:
            return list(self.model.weights)
        if part == AVERAGE:
            return _average_variables(self.optimizer)
        if part == OPTIMIZER:
            return self._optimizer_variables()
        if part == METRICS:
            return list(self.model.metrics_variables)
        others = {id(v) for v in (*self.model.weights, *self.model.metrics_variables)}
        return [v for v in self.model.variables if id(v) not in others]  # seed generators

    def _optimizer_variables(self) -> list[Any]:
        """Of all optimizers: the compiled one first."""
        optimizers = [self.optimizer, *self.further_optimizers()]
        return [v for one in optimizers if one is not None for v in own_variables(one)]

    def further_optimizers(self) -> list[Any]:
        """Optimizers that the model holds beside the compiled one, as a GAN's, in a fixed order.

        They are found where `save_weights` finds them: among attributes of the model and its
        layers, lists and dicts included.
        """
        model = self.model
        layers = model._flatten_layers(include_self=False)
        n_layers = sum(1 for _ in layers)
        if n_layers != self._n_layers:  # looking through all of them takes its time
            self._n_layers = n_layers
            below = model._flatten_layers(include_self=False)
            self._below = [one for layer in below for one in _optimizers_in(layer)]
        own = self.optimizer
        known = {id(own), id(getattr(own, "inner_optimizer", None))}
        found = {id(one): one for one in (*_optimizers_in(model), *self._below)}
        return [one for key, one in found.items() if key not in known]

    def borrow(self, parts: Iterable[str]) -> Parts:
        self.synced()
        known = {*self.parts(), *IN_EVERY_BACKUP}
        trees = Parts()
        for part in parts:
            if part not in known:
                continue
            variables = self._variables(part)
            if part != METRICS:
                refuse_joint(variables)
            arrays = [_live(variable) for variable in variables]
            keyed = part == OPTIMIZER
            trees[part] = dict(zip(_keys(variables), arrays, strict=True)) if keyed else arrays
        return trees

    def named(self, part: str, tree: Any) -> list[tuple[str, Any]]:
        if isinstance(tree, dict):
            return list(tree.items())
        paths = [variable.path for variable in self._variables(part)]
        if not isinstance(tree, list) or len(tree) != len(paths):
            return []
        return list(zip(paths, tree, strict=True))

    def snapshot(self, parts: Iterable[str]) -> Parts:
        return {part: map_tree(tree, np.array) for part, tree in self.borrow(parts).items()}

    def like_live(self, snapshot: Parts) -> Parts:
        return snapshot  # Keras's functions give and take arrays of NumPy

    def restore(self, snapshot: Parts) -> None:
        model = self.synced()
        if WEIGHTS in snapshot:
            _assign(WEIGHTS, self._variables(WEIGHTS), snapshot[WEIGHTS])
        if OPTIMIZER in snapshot:
            self._restore_optimizer(snapshot[OPTIMIZER])
        for part in IN_EVERY_BACKUP:
            if part in snapshot:
                _assign(part, self._variables(part), snapshot[part])
        if AVERAGE in snapshot:
            _assign(AVERAGE, self._variables(AVERAGE), snapshot[AVERAGE])
            # What `fit` does at its end: with `use_ema` the average is the result (K-E3).
            self.optimizer.finalize_variable_values(model.trainable_variables)
            inner = getattr(self.optimizer, "inner_optimizer", self.optimizer)
            averages = inner._model_variables_moving_average
            unshare(zip(inner._trainable_variables, averages, strict=True))

    def _restore_optimizer(self, arrays: dict[str, Any]) -> None:
        if len(self._optimizer_variables()) < len(arrays):
            self._build_optimizer()
        variables = self.optimizer_variables(len(arrays))
        # Keras numbers names by what the process has built before: the order is what stays.
        if _fit(variables, list(arrays.values())):
            _assign(OPTIMIZER, variables, list(arrays.values()))
            return
        for key, variable in zip(_keys(variables), variables, strict=True):
            if key in arrays:
                variable.assign(_own(arrays[key]))

    def optimizer_variables(self, n_kept: int) -> list[Any]:
        """What a kept optimizer is put back into: a backup has the averages apart."""
        whole = self._optimizer_variables()
        averages = {id(variable) for variable in _average_variables(self.optimizer)}
        apart = [variable for variable in whole if id(variable) not in averages]
        # Backups of before there were others have the compiled one alone.
        first = [] if self.optimizer is None else own_variables(self.optimizer)
        first_apart = [variable for variable in first if id(variable) not in averages]
        for variables in (whole, apart, first, first_apart):
            if n_kept == len(variables):
                return variables
        return apart

    def without_averages(self, arrays: dict[str, Any]) -> dict[str, Any]:
        """A copied optimizer as a backup holds it."""
        averages = {id(variable) for variable in _average_variables(self.optimizer)}
        variables = self._optimizer_variables()
        doubles = {k for k, v in zip(_keys(variables), variables, strict=True) if id(v) in averages}
        return {key: array for key, array in arrays.items() if key not in doubles}

    def set_averages(self, arrays: Iterable[Any]) -> None:
        """Put averages back where training finds them; the model keeps its own weights."""
        _assign(AVERAGE, self._variables(AVERAGE), list(arrays))

    def ensure_built(self, parts: Iterable[str]) -> bool:
        if not self.model.built:
            return False
        if OPTIMIZER in parts:
            self._build_optimizer()
        return True

    def _build_optimizer(self) -> None:
        # JAX and PyTorch do so before training begins, TensorFlow within its first batch, when
        # memory for a copy would come too late. Not where a strategy decides on places.
        model, optimizer = self.model, self.optimizer
        build = getattr(optimizer, "build", None)
        if build is not None and not optimizer.built and not _distributed(model):
            build(model.trainable_variables)

    def nonfinite(self) -> frozenset[str]:
        model = self.synced()
        variables = [*model.variables, *self._optimizer_variables()]
        arrays = ((v.path, _live(v)) for v in variables if _is_float(v))
        return nonfinite_names(arrays)

    def nonfinite_in(self, snapshot: Parts) -> frozenset[str]:
        return nonfinite_names(self.named(WEIGHTS, snapshot.get(WEIGHTS)))

    def unsynced_weights(self) -> frozenset[str]:
        model = self.model
        if keras.backend.backend() != "torch" and not _spans_workers(model):
            return frozenset()  # one program of all workers keeps them equal
        trained = {id(variable) for variable in model.trainable_weights}
        weights = model.weights
        return frozenset(str(i) for i, one in enumerate(weights) if id(one) not in trained)

    def call_before_gathering(self, work: Callable[[], Any] | None) -> None:
        """Nothing is gathered."""

    def is_sharded(self) -> bool:
        """Of Keras's variables each process has the whole, or none can be read."""
        return False

    def enter_save(self) -> None:
        """Each process reads its own: what only all could read is refused when a run begins."""

    def check_workers(self) -> None:
        if self.runs_fit() and _spans_workers(self.model):
            raise HostError.unfit()

    def state_bytes(self, *, weights_only: bool = False) -> int | None:
        model = self.model
        if not model.built:
            return None
        variables = (
            model.variables if weights_only else [*model.variables, *self._optimizer_variables()]
        )
        return sum(_n_bytes(variable) for variable in variables)

    def named_weights(self) -> Iterable[tuple[str, Any]]:
        for variable in self.synced().weights:
            yield variable.path, keras.ops.convert_to_numpy(variable)

    def steps_done(self) -> int | None:
        counts = [
            count
            for _, optimizer in self._optimizers()
            if (count := self._updates_of(optimizer)) is not None
        ]
        return max(counts, default=None)

    def _updates_of(self, optimizer: Any) -> int | None:
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        counter = getattr(inner, "_iterations", None)
        if counter is None:
            iterations = getattr(inner, "iterations", None)
            return None if iterations is None else _number(int, iterations)
        n_batches = _number(int, self._value_now(counter))
        return n_batches // (getattr(inner, "gradient_accumulation_steps", None) or 1)

    def _value_now(self, variable: Any) -> Any:
        """A variable of the optimizer, without the sync of all that JAX would need for it."""
        model = self.model
        state = getattr(model, "_jax_state", None)
        if state and not getattr(model, "_jax_state_synced", True):
            values = state.get("optimizer_variables") or ()
            for one, value in zip(self.optimizer.variables, values, strict=False):
                if one is variable:
                    return value
            self.synced()
        return variable

    # Gradients

    def gradient_facts(self) -> GradientFacts | None:
        watch = watch_of(self.optimizer)
        return None if watch is None else watch.facts(self._value_now)

    def forget_gradients(self) -> None:
        watch = watch_of(self.optimizer)
        if watch is not None:
            self.synced()
            watch.forget()

    def gradients(self) -> Iterable[tuple[str, Any]] | None:
        watch = watch_of(self.optimizer)
        if watch is None:
            return None
        self.synced()
        scaled = hasattr(self.optimizer, "inner_optimizer")
        gradients: Iterable[tuple[str, Any]] | None = watch.gradients(scaled=scaled)
        return gradients

    def check_gradients(self, callback: str, *, arrays: bool) -> None:
        seen = watch_of(self.optimizer) is not None
        if seen and not (arrays and self.gradients() is None):
            return
        watched = f"watch_gradients(optimizer{', keep=True' if arrays else ''})"
        goes_to = f"CallbackList(..., optimizer={watched}), and make each step with that optimizer"
        if self.runs_fit():
            goes_to = f"model.compile({watched}, ...)"
        raise HostError.lacks(
            callback,
            "an optimizer that keeps its gradients" if seen else "an optimizer that is watched",
            self.describe(),
            hint=f"from peakhold.keras import watch_gradients, and {goes_to}.",
        )

    # Learning rates

    def _optimizers(self) -> list[tuple[str, Any]]:
        optimizer = self.optimizer
        if optimizer is None:
            return []
        several = getattr(optimizer, "optimizers", None)
        return [(o.name, o) for o in several] if several else [("", optimizer)]

    def learning_rates(self) -> dict[str, float]:
        optimizer = self.optimizer
        if optimizer is None:
            return {}
        if not getattr(optimizer, "optimizers", None):  # asked for at each end of an epoch
            return {"": _number(float, optimizer.learning_rate)}
        return {name: _number(float, one.learning_rate) for name, one in self._optimizers()}

    def set_learning_rate(self, name: str, value: float) -> None:
        self.synced()
        dict(self._optimizers())[name].learning_rate = value

    def at_next_step(self, work: Callable[[], Any]) -> None:
        """No optimizer of Keras calls anybody before its steps."""

    def check_rates_settable(self, callback: str) -> None:
        if not self._optimizers():
            raise HostError.lacks(
                callback,
                "an optimizer",
                self.describe(),
                hint="call model.compile(optimizer=...) first."
                if self.runs_fit()
                else "pass CallbackList(..., optimizer=optimizer).",
            )
        for _, optimizer in self._optimizers():
            inner = getattr(optimizer, "inner_optimizer", optimizer)
            schedule = getattr(inner, "_learning_rate", None)
            if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
                raise LearningRateScheduleError.for_schedule(callback, schedule)

    def let_program_count(self) -> None:
        """What Keras's optimizers are made with is in the program, and not in their state."""

    def settable_groups(self) -> Mapping[str, Any]:
        return {}

    def rate_schedule(self) -> tuple[str, int] | None:
        for _, optimizer in self._optimizers():
            inner = getattr(optimizer, "inner_optimizer", optimizer)
            curve: Any = getattr(inner, "_learning_rate", None)
            if type(curve).__name__ in CURVES_WITH_AN_END and not getattr(curve, "cycle", False):
                end = curve.decay_steps + (getattr(curve, "warmup_steps", None) or 0)
                return type(curve).__name__, int(end) - (self.steps_done() or 0)
        return None

    # Files

    def file_suffixes(self) -> tuple[str, ...] | None:
        return saving.SUFFIXES

    def write(self, file: BinaryIO, suffix: str, scratch: str) -> None:
        saving.write(self.synced(), file, suffix, scratch)

    def plan_file(self, suffix: str) -> PlannedKerasFile:
        model = self.synced()
        try:
            plan = file_plan.plan(model, suffix)
        except ValueError as error:
            raise CannotPlanError(str(error)) from error
        lists = {WEIGHTS: model.weights}
        dicts = {OPTIMIZER: self._optimizer_variables()}
        return PlannedKerasFile(plan, places_of(lists, dicts))

    def check_file(self, suffix: str) -> None:
        """Keras's formats hold whatever a Keras model has."""

    def versions(self) -> dict[str, str]:
        return {
            "peakhold": __version__,
            "keras": keras.__version__,
            "backend": keras.backend.backend(),
        }

    # Resume

    def resumption(self) -> KerasResumption:
        return KerasResumption(self)

    # Metrics

    def metric_names(self) -> tuple[str, ...] | None:
        model = self.model
        if type(model).train_step is not _stock_train_step(model):
            return None  # its logs may have any keys
        if _spans_workers(model):
            return None  # Keras tells names with values, and those only all workers can read
        try:
            return tuple(sorted(_logged(model.get_metrics_result())))
        except (ValueError, AttributeError, TypeError):  # not built, or not compiled
            return None

    def metric_directions(self) -> dict[str, Direction | None]:
        directions: dict[str, Direction | None] = {}
        for container in self.model.metrics:
            for prefix, metric in _compiled(container):
                up_or_down = getattr(metric, "_direction", None)
                direction = _DIRECTIONS.get(up_or_down)
                for name in {metric.name, f"{prefix}_{metric.name}" if prefix else metric.name}:
                    # Two outputs may disagree about a bare name: then it tells nothing.
                    known = directions.setdefault(name, direction)
                    directions[name] = direction if known == direction else None
        return directions

    # Words

    def say(self, message: str) -> None:
        from keras.src.utils import io_utils

        speech.say(message, io_utils.print_msg)


def _live(variable: Any) -> Any:
    """A variable's value as an array, without a copy where its framework lets us look.

    To be let go before training goes on: TensorFlow copies a buffer that somebody else looks at
    before it writes to it, PyTorch writes, and JAX gives the buffer away.
    """
    value = variable.value
    if hasattr(value, "read_value"):  # TensorFlow's: `numpy()` would copy
        value = own_part(value)
        try:
            return np.asarray(memoryview(value.read_value()))
        except (TypeError, ValueError, BufferError):  # bfloat16, strings, another device
            return np.asarray(keras.ops.convert_to_numpy(value))
    if hasattr(value, "detach"):
        value = value.detach()
        try:
            return value.numpy(force=True)
        except TypeError:  # bfloat16 and float8 are not NumPy's
            source = source_of(value)
            if source is None:
                raise
            return source.array.view(np.dtype(str(variable.dtype)))
    try:
        return np.asarray(value)
    except TypeError:
        return np.asarray(keras.ops.convert_to_numpy(variable))
    except RuntimeError as error:  # JAX's
        refuse_spread(variable.path, value, error)
        raise


def _own(array: Any) -> Any:
    """An array for a framework to keep: JAX takes aligned memory as it is, and ours is reused."""
    return np.array(array)


def unshare(pairs: Iterable[tuple[Any, Any]]) -> None:
    """Give each average a buffer of its own: JAX donates one of the two, and the other is gone."""
    for variable, average in pairs:
        if average is not None and variable.value is average.value:
            average.assign(_own(keras.ops.convert_to_numpy(average)))


def _keys(variables: list[Any]) -> list[str]:
    """A name for each variable; two optimizers may use the same paths."""
    seen: dict[str, int] = {}
    keys = []
    for variable in variables:
        count = seen[variable.path] = seen.get(variable.path, 0) + 1
        keys.append(variable.path if count == 1 else f"{variable.path}#{count}")
    return keys


def _fit(variables: list[Any], arrays: list[Any]) -> bool:
    return len(variables) == len(arrays) and all(
        tuple(variable.shape) == tuple(np.shape(array))
        for variable, array in zip(variables, arrays, strict=True)
    )


def _assign(part: str, variables: list[Any], arrays: list[Any]) -> None:
    if not _fit(variables, arrays):
        raise HostError.lacks(
            f"restoring {part!r}",
            f"{len(arrays)} variables of the shapes that were copied",
            [tuple(variable.shape) for variable in variables][:5],
            hint="restore into the model that the copy was taken from, or one built like it.",
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(_own(array))


def _distributed(model: Any) -> bool:
    strategy = getattr(model, "distribute_strategy", None)
    return is_distributed() or getattr(strategy, "num_replicas_in_sync", 1) > 1


def _spans_workers(model: Any) -> bool:
    return spans_workers(getattr(model, "distribute_strategy", None))


def _is_float(variable: Any) -> bool:
    return "float" in str(variable.dtype)


def _n_bytes(variable: Any) -> int:
    dtype = str(variable.dtype)
    bits = int("".join(c for c in dtype.split("_", maxsplit=1)[0] if c.isdigit()) or 8)
    return int(np.prod(variable.shape)) * max(bits // 8, 1)


def _optimizers_in(layer: Any) -> Iterable[Any]:
    """Optimizers that a layer holds itself, or in a list or a dict."""
    for _, member in sorted(vars(layer).items()):
        held = member.values() if isinstance(member, dict) else member
        several = isinstance(member, (dict, list, tuple)) and len(member) <= _MANY
        for one in held if several else [member]:
            if isinstance(one, keras.optimizers.Optimizer):
                yield one


def _number(kind: Callable[[Any], N], value: Any) -> N:
    """A variable's value; if it is mirrored, by an op of Keras's, which takes five times longer."""
    try:
        return kind(value)
    except TypeError:  # on the replicas of a strategy
        return kind(keras.ops.convert_to_numpy(value))


def _averages(optimizer: Any) -> bool:
    return bool(getattr(getattr(optimizer, "inner_optimizer", optimizer), "use_ema", False))


def _average_variables(optimizer: Any) -> list[Any]:
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    averages = getattr(inner, "_model_variables_moving_average", ()) if _averages(optimizer) else ()
    return [variable for variable in averages if variable is not None]


def _logged(results: Mapping[str, Any]) -> Iterator[str]:
    """Names in the logs: of a metric that gives several values, each has its own."""
    for name, value in results.items():
        yield from value if isinstance(value, Mapping) else [name]


def _stock_train_step(model: Any) -> Any:
    """The `train_step` that Keras gives to this model."""
    for cls in type(model).__mro__:
        if cls.__module__.startswith("keras.") and "train_step" in vars(cls):
            return vars(cls)["train_step"]
    return None


def _compiled(container: Any) -> Iterable[tuple[str, Any]]:
    """`(output name, metric)` for each metric in a container of `model.metrics`."""
    parts = [
        *(getattr(container, "_flat_metrics", None) or ()),
        *(getattr(container, "_flat_weighted_metrics", None) or ()),
    ]
    if not parts:
        if not hasattr(container, "_user_metrics"):
            yield "", container  # a metric of the user's own `metrics` property
            return
        # A container that is not built yet (TensorFlow, before the first batch) has what was given.
        given = [container._user_metrics, getattr(container, "_user_weighted_metrics", None)]
        for metric in keras.tree.flatten(given):
            if isinstance(metric, keras.metrics.Metric):
                yield "", metric
        return
    for part in parts:
        for metric in getattr(part, "metrics", ()):
            yield getattr(part, "output_name", None) or "", metric
