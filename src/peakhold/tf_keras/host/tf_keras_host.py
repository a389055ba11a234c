"""The host of a model of Keras 2 (`tf_keras`).

Rules of this file:

1. Keras 2 is TensorFlow alone: no backend is asked for, and no variable is ever out of date.
2. Nothing here waits for another worker: each reads what lies with it (`variables.py`).
3. Optimizers are of two generations, new and legacy, and a `LossScaleOptimizer` around either: they
   differ in what is a method and what an attribute.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO, NoReturn

import numpy as np
import tf_keras

from peakhold import speech
from peakhold._core.monitor import Direction
from peakhold._version import __version__
from peakhold.errors import HostError, LearningRateScheduleError
from peakhold.files.scratch import scratch_folder
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
from peakhold.keras.files.undistributed import undistributed
from peakhold.keras.host.joint import spans_workers
from peakhold.keras.host.keras_host import FitHost
from peakhold.tf_keras.host.resume import TFKerasResumption
from peakhold.tf_keras.host.variables import (
    array_of,
    is_by_replica,
    kind_of,
    number,
    path_of,
    reading_alone,
)
from peakhold.trees import map_tree

__all__ = ["SUFFIXES", "TFKerasHost", "host_for"]

SUFFIXES = (".keras", ".h5", ".weights.h5")
SEEDS = "seeds"
"""The part that callbacks do not copy, and that only a resume puts back."""


def host_for(model: Any, optimizer: Any = None) -> TFKerasHost | None:
    """The host of a model of Keras 2; None for anything else."""
    return TFKerasHost(model, optimizer) if isinstance(model, tf_keras.Model) else None


class TFKerasHost(FitHost):
    """A model of Keras 2, as callbacks see it.

    Args:
        model: A `tf_keras.Model`.
        optimizer: The optimizer of a loop that does not compile the model; None: the model's own.
    """

    # State

    def parts(self) -> tuple[str, ...]:
        if self.optimizer is None:
            return (WEIGHTS,)
        return (WEIGHTS, *([AVERAGE] if self._averages() else ()), OPTIMIZER)

    def variables(self, part: str) -> list[Any]:
        """The variables of a part, in the order in which it lists them."""
        if part == WEIGHTS:
            return list(self.model.weights) if self.model.built else []
        if part == AVERAGE:
            return self._averages()
        if part == OPTIMIZER:
            return _variables_of(self.optimizer)
        generators = (
            getattr(getattr(layer, "_random_generator", None), "_generator", None)
            for layer in self.model._flatten_layers()
        )
        return [generator.state for generator in generators if generator is not None]

    def _averages(self) -> list[Any]:
        inner = _inner(self.optimizer)
        if not getattr(inner, "use_ema", False):
            return []
        return list(getattr(inner, "_model_variables_moving_average", ()))

    def borrow(self, parts: Iterable[str]) -> Parts:
        known = {*self.parts(), SEEDS}
        return {
            part: [array_of(variable) for variable in self.variables(part)]
            for part in parts
            if part in known
        }

    def named(self, part: str, tree: Any) -> list[tuple[str, Any]]:
        paths = [path_of(variable) for variable in self.variables(part)]
        if not isinstance(tree, list) or len(tree) != len(paths):
            return []
        return list(zip(paths, tree, strict=True))

    def snapshot(self, parts: Iterable[str]) -> Parts:
        return {part: map_tree(tree, np.array) for part, tree in self.borrow(parts).items()}

    def like_live(self, snapshot: Parts) -> Parts:
        return snapshot  # Keras's functions give and take arrays of NumPy

    def restore(self, snapshot: Parts) -> None:
        for part in (WEIGHTS, OPTIMIZER, SEEDS, AVERAGE):
            if part not in snapshot:
                continue
            if part == OPTIMIZER:
                self.build_optimizer()
            self._assign(part, snapshot[part])
        if AVERAGE in snapshot:  # with `use_ema` the average is the result, as at the end of `fit`
            self.optimizer.finalize_variable_values(self.model.trainable_variables)

    def _assign(self, part: str, arrays: list[Any]) -> None:
        variables = self.variables(part)
        if [tuple(v.shape) for v in variables] != [tuple(np.shape(array)) for array in arrays]:
            raise HostError.lacks(
                f"restoring {part!r}",
                f"{len(arrays)} variables of the shapes that were copied",
                [kind_of(variable) for variable in variables][:5],
                hint="restore into the model that the copy was taken from, or one built like it.",
            )
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(np.array(array))  # TensorFlow may keep the memory, and ours is reused

    def ensure_built(self, parts: Iterable[str]) -> bool:
        if not self.model.built:
            return False
        if OPTIMIZER in parts and self.model.distribute_strategy.num_replicas_in_sync == 1:
            self.build_optimizer()  # else where all workers are at the same place: in a batch
        return True

    def build_optimizer(self) -> None:
        """Make the optimizer's variables, which Keras 2 makes in the first batch."""
        optimizer = self.optimizer
        if optimizer is None or not self.model.built:
            return
        with self.model.distribute_strategy.scope():
            if hasattr(optimizer, "build"):
                optimizer.build(self.model.trainable_variables)
            else:
                optimizer._create_all_weights(self.model.trainable_variables)

    def nonfinite(self) -> frozenset[str]:
        variables = [*self.model.variables, *self.variables(OPTIMIZER)]
        floats = (variable for variable in variables if variable.dtype.is_floating)
        return nonfinite_names((path_of(variable), array_of(variable)) for variable in floats)

    def nonfinite_in(self, snapshot: Parts) -> frozenset[str]:
        return nonfinite_names(self.named(WEIGHTS, snapshot.get(WEIGHTS)))

    def unsynced_weights(self) -> frozenset[str]:
        if not spans_workers(self.model.distribute_strategy):
            return frozenset()
        weights = self.variables(WEIGHTS)
        return frozenset(str(i) for i, one in enumerate(weights) if is_by_replica(one))

    def call_before_gathering(self, work: Callable[[], Any] | None) -> None:
        """Nothing is gathered."""

    def is_sharded(self) -> bool:
        """Each worker has the whole."""
        return False

    def enter_save(self) -> None:
        """Whoever saves reads its own."""

    def check_workers(self) -> None:
        """Keras 2's `fit` trains under every strategy."""

    def state_bytes(self, *, weights_only: bool = False) -> int | None:
        if not self.model.built:
            return None
        variables = [*self.model.variables, *([] if weights_only else self.variables(OPTIMIZER))]
        return sum(int(one.shape.num_elements() * one.dtype.size) for one in variables)

    def named_weights(self) -> Iterable[tuple[str, Any]]:
        for variable in self.variables(WEIGHTS):
            yield path_of(variable), array_of(variable)

    def steps_done(self) -> int | None:
        iterations = getattr(_inner(self.optimizer), "iterations", None)
        return None if iterations is None else int(number(iterations))

    # Gradients: nobody sees them here

    def gradient_facts(self) -> GradientFacts | None:
        return None

    def forget_gradients(self) -> None:
        """None are seen."""

    def gradients(self) -> Iterable[tuple[str, Any]] | None:
        return None

    def check_gradients(self, callback: str, *, arrays: bool) -> None:
        raise HostError.lacks(
            callback,
            "a framework whose gradients can be watched",
            self.describe(),
            hint="Keras 2's cannot: use Keras 3 with peakhold.keras, or leave this out.",
        )

    # Learning rates

    def learning_rates(self) -> dict[str, float]:
        optimizer = _inner(self.optimizer)
        if optimizer is None:
            return {}
        rate = _schedule(optimizer) or optimizer.learning_rate
        if isinstance(rate, tf_keras.optimizers.schedules.LearningRateSchedule):
            rate = rate(number(optimizer.iterations))
        return {"": float(number(rate))}

    def set_learning_rate(self, name: str, value: float) -> None:
        _inner(self.optimizer).learning_rate = value

    def at_next_step(self, work: Callable[[], Any]) -> None:
        """No optimizer of Keras calls anybody before its steps."""

    def check_rates_settable(self, callback: str) -> None:
        if self.optimizer is None:
            raise HostError.lacks(
                callback,
                "a compiled model",
                self.describe(),
                hint="call model.compile(optimizer=...) first.",
            )
        schedule = _schedule(_inner(self.optimizer))
        if schedule is not None:
            raise LearningRateScheduleError.for_schedule(callback, schedule)

    def let_program_count(self) -> None:
        """What Keras's optimizers are made with is in the program, and not in their state."""

    def settable_groups(self) -> Mapping[str, Any]:
        return {}

    def rate_schedule(self) -> tuple[str, int] | None:
        curve = _schedule(_inner(self.optimizer))
        if type(curve).__name__ not in CURVES_WITH_AN_END or getattr(curve, "cycle", False):
            return None
        end = curve.decay_steps + (getattr(curve, "warmup_steps", None) or 0)
        return type(curve).__name__, int(end) - (self.steps_done() or 0)

    # Files

    def file_suffixes(self) -> tuple[str, ...] | None:
        return SUFFIXES

    def write(self, file: BinaryIO, suffix: str, scratch: str) -> None:
        model, name = self.model, f"model{suffix}"
        save = model.save_weights if suffix == ".weights.h5" else model.save
        with scratch_folder(scratch, name) as folder:
            path = os.path.join(folder, name)
            undistributed(reading_alone, model.distribute_strategy, save, path)
            with open(path, "rb") as written:
                shutil.copyfileobj(written, file, 1 << 20)

    def plan_file(self, suffix: str) -> NoReturn:
        raise CannotPlanError("only Keras 2's own save() writes its files")

    def check_file(self, suffix: str) -> None:
        """Keras's formats hold whatever a Keras model has."""

    def versions(self) -> dict[str, str]:
        import tensorflow as tf

        return {
            "peakhold": __version__,
            "tf_keras": tf_keras.__version__,
            "tensorflow": tf.__version__,
        }

    # Resume

    def resumption(self) -> TFKerasResumption:
        return TFKerasResumption(self)

    # Metrics

    def metric_names(self) -> tuple[str, ...] | None:
        model = self.model
        compiled = getattr(model, "compiled_metrics", None)
        if compiled is None or not compiled.built or not _has_stock_train_step(model):
            return None
        return tuple(sorted(metric.name for metric in model.metrics))

    def metric_directions(self) -> dict[str, Direction | None]:
        return {}  # Keras 2's metrics do not tell

    # Words

    def say(self, message: str) -> None:
        from tf_keras.src.utils import io_utils

        speech.say(message, io_utils.print_msg)


def _inner(optimizer: Any) -> Any:
    """The optimizer itself, of one that scales the loss for it."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _variables_of(optimizer: Any) -> list[Any]:
    """Of a legacy one `variables` is a method, of a new one a list that can be called."""
    if optimizer is None:
        return []
    found = optimizer.variables
    return list(found if isinstance(found, list) else found())


def _schedule(optimizer: Any) -> Any:
    """The schedule that an optimizer follows, or None."""
    hyper = getattr(optimizer, "_hyper", None) or {}  # of a legacy one
    rate = hyper.get("learning_rate", getattr(optimizer, "_learning_rate", None))
    is_one = isinstance(rate, tf_keras.optimizers.schedules.LearningRateSchedule)
    return rate if is_one else None


def _has_stock_train_step(model: Any) -> bool:
    """Whether `train_step` is Keras's own: else its logs may have any keys."""
    owner = next(cls for cls in type(model).__mro__ if "train_step" in vars(cls))
    return owner.__module__.startswith("tf_keras.") and "train_step" not in vars(model)
