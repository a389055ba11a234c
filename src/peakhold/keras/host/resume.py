"""What a resume asks of a Keras model, on any backend.

Rules of this file, found by experiment (docs/explanation/keras-defects.md, "Exact resume"):

1. Variables belong together by order, dtype and shape: the names Keras gives (`dense_3`) count up
   within a process, and are for messages only.
2. `fit` resets its metrics before `on_epoch_begin`, and draws the order of the data after it. So
   the first `on_epoch_begin` is where state is put back exactly, the random generators last.
3. `fit` reads `model._initial_epoch` once, right after `on_train_begin`, and never clears it
   (K-R5): it is cleared as soon as it has been read.
"""

from __future__ import annotations

import json
import operator
import os
import sys
import warnings
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from keras.callbacks import History

import keras
from peakhold.errors import CheckpointDamagedError
from peakhold.host.contract import AVERAGE, OPTIMIZER, WEIGHTS
from peakhold.host.resume import EpochPlace, EpochRecord
from peakhold.host.settings import note_end, set_by_program, set_once
from peakhold.keras.fit.frame import fit_locals
from peakhold.keras.fit.repeatable import tensorflow_seed
from peakhold.keras.host.own_callbacks import stateless_base

__all__ = ["KerasResumption"]

_first_epochs: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
"""First epochs that we set and have not taken back, by model."""

_IN_EVERY_BACKUP = ("seeds", "metrics")
"""Parts of the host's that callbacks do not copy."""

_TRAINED_BY = "trained_by"
"""In the build configuration, where there are several optimizers: for each, the compiled one first,
the places of its variables among the model's."""

_FOREIGN_WEIGHTS, _FOREIGN_POSITION = "latest.weights.h5", "training_metadata.json"


class KerasResumption:
    """A Keras model, as a resume sees it.

    Args:
        host: The model's host.
    """

    def __init__(self, host: Any) -> None:
        self._host = host
        self._trained_by: list[list[int | None]] = []

    # Where fit begins

    def set_first_epoch(self, epoch: int | None) -> None:
        model = self._host.model
        ours = _first_epochs.pop(model, None)
        if epoch is None:
            if ours is not None and model._initial_epoch == ours:
                model._initial_epoch = None
            return
        model._initial_epoch = epoch
        _first_epochs[model] = epoch

    # Building

    def build_config(self) -> Any:
        model = self._host.model
        config = model.get_build_config()
        further = self._host.further_optimizers()
        if not further:
            return config
        # Which optimizer is whose, only the model's own code says, and not before the first batch.
        places = {id(variable): index for index, variable in enumerate(model.variables)}
        all_of_them = [self._host.optimizer, *further]
        built = [[places.get(id(v)) for v in _trained_by(one)] for one in all_of_them]
        return {**(config or {}), _TRAINED_BY: built}

    def build(self, config: Any) -> bool:
        model, config = self._host.model, dict(config or {})
        self._trained_by = [
            [None if place is None else operator.index(place) for place in places]
            for places in config.pop(_TRAINED_BY, [])
        ]
        if not _is_built(model) and config:
            with warnings.catch_warnings():  # that it cannot be built so: the first batch does it
                warnings.filterwarnings("ignore", ".*had a build config", UserWarning)
                model.build_from_config(config)
        return _is_built(model)

    def _build_optimizers(self) -> None:
        """Build them for the variables that they had, where all of the model's are there."""
        model, optimizer = self._host.model, self._host.optimizer
        if not self._trained_by:
            if optimizer is not None and not optimizer.built:
                optimizer.build(model.trainable_variables)
            return
        variables = model.variables
        optimizers = [optimizer, *self._host.further_optimizers()]
        for one, places in zip(optimizers, self._trained_by, strict=False):
            known = [variables[i] for i in places if i is not None and 0 <= i < len(variables)]
            if known and len(known) == len(places) and not one.built:
                one.build(known)

    # State

    def more(self) -> dict[str, Any]:
        generator = _global_generator()
        live = self._host.borrow(_IN_EVERY_BACKUP)
        return {
            **{part: [np.array(array) for array in arrays] for part, arrays in live.items()},
            "generator": None if generator is None else _array(generator.state),
            "rates": self._host.learning_rates(),
        }

    def names(self) -> dict[str, list[str]]:
        return {
            part: [v.path for v in variables] for part, variables in self._variables({}).items()
        }

    def to_write(self, parts: Mapping[str, Any]) -> dict[str, Any]:
        if AVERAGE not in parts or OPTIMIZER not in parts:
            return dict(parts)
        return {**parts, OPTIMIZER: self._host.without_averages(parts[OPTIMIZER])}

    def _variables(self, parts: Mapping[str, Any]) -> dict[str, list[Any]]:
        """What each part is put back into, in its order."""
        return {
            WEIGHTS: self._host._variables(WEIGHTS),
            OPTIMIZER: self._host.optimizer_variables(len(parts.get(OPTIMIZER, ()))),
            AVERAGE: self._host._variables(AVERAGE),
        }

    def mismatches(self, parts: Mapping[str, Any], names: Mapping[str, list[str]]) -> list[str]:
        words: list[str] = []
        weights = _listed(parts.get(WEIGHTS, []))
        if [_kind(v) for v in self._host._variables(WEIGHTS)] == [_kind(a) for a in weights]:
            self._build_optimizers()
        for part, variables in self._variables(parts).items():
            kept = _listed(parts.get(part, []))
            called = [*names.get(part, ()), *["a tensor"] * len(kept)]
            for index in range(max(len(kept), len(variables))):
                theirs = f"{called[index]} {_kind(kept[index])}" if index < len(kept) else "nothing"
                variable = variables[index] if index < len(variables) else None
                ours = "nothing" if variable is None else f"{variable.path} {_kind(variable)}"
                if variable is None or index >= len(kept) or _kind(kept[index]) != _kind(variable):
                    words.append(f"{part}: {theirs} in the backup, {ours} in the model")
        return words

    def put_back(self, parts: Mapping[str, Any], more: Mapping[str, Any]) -> None:
        model = self._host.model
        snapshot = {part: parts[part] for part in (WEIGHTS, OPTIMIZER) if part in parts}
        snapshot |= {part: more[part] for part in _IN_EVERY_BACKUP}
        measured = [_kind(array) for array in more["metrics"]]
        same_metrics = measured == [_kind(variable) for variable in model.metrics_variables]
        if not same_metrics:
            del snapshot["metrics"]
        self._host.restore(snapshot)
        if AVERAGE in parts:
            self._host.set_averages(_listed(parts[AVERAGE]))
        if same_metrics:
            # What an unbroken run finds zeroed at the start of an epoch, and only that.
            model.reset_metrics()
        if more["generator"] is not None:
            generator = keras.src.random.seed_generator.global_seed_generator()
            generator.state.assign(more["generator"])

    # The record of the epochs

    def passed(self, callbacks: Iterable[Any]) -> EpochRecord | None:
        for one in callbacks:
            if isinstance(one, History) and hasattr(one, "epoch"):
                return EpochRecord(list(one.epoch), {k: list(v) for k, v in one.history.items()})
        return None

    def set_passed(self, callbacks: Iterable[Any], passed: EpochRecord) -> None:
        for one in callbacks:
            if isinstance(one, History):
                one.epoch = list(passed.epochs)
                one.history = {key: list(values) for key, values in passed.metrics.items()}
                self._host.model.history = one

    def fit_settings(self) -> dict[str, Any]:
        local = fit_locals(self._host.model)
        return {name: local[name] for name in ("batch_size", "validation_freq") if name in local}

    def settings(self) -> dict[str, Any]:
        optimizer = self._host.optimizer
        if optimizer is None:
            return {}
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        try:
            config = dict(inner.get_config())
        except Exception:  # of an optimizer of a user's own
            config = {}
        config.pop("name", None)
        rate = getattr(inner, "_learning_rate", None)
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            config["learning_rate"] = type(rate).__name__
            config |= {f"{type(rate).__name__}.{k}": v for k, v in rate.get_config().items()}
        return {"class": type(inner).__name__, **config}

    def program_settings(self) -> dict[str, Any]:
        return set_by_program(
            self._host.optimizer,
            self.settings(),
            self.changing_settings(),
            trained=bool(self._host.steps_done()),
        )

    def changing_settings(self) -> frozenset[str]:
        return frozenset({"learning_rate"})

    def how_to_set(self, setting: str, value: str, epoch: int) -> str:
        return set_once(value, epoch)

    def note_end(self) -> None:
        note_end(self._host.optimizer, self.settings())

    def stateless_base(self, callback: Any) -> type | None:
        return stateless_base(callback)

    # The running fit

    def call_batch_hooks(self, driver: Any) -> None:
        if getattr(driver, "_async_train", False):
            driver._async_train = False

    def place(self, driver: Any) -> EpochPlace | str | None:
        from peakhold.keras.fit.place import place_in_fit  # of backups within epochs alone

        return place_in_fit(self._host, driver)

    # What cannot be repeated

    def unrepeatable(self) -> str | None:
        if keras.backend.backend() != "tensorflow" or "tensorflow" not in sys.modules:
            return None
        seeded = tensorflow_seed() is not None
        iterator = fit_locals(self._host.model).get("epoch_iterator")
        adapter = getattr(iterator, "data_adapter", None)
        shuffles = type(adapter).__name__ == "ArrayDataAdapter" and bool(
            getattr(adapter, "_shuffle", True)
        )
        if seeded or not shuffles:
            return None
        return (
            "cannot bring back the order of the batches: TensorFlow shuffles with "
            "a seed that nobody knows. For a resume that repeats the run exactly, call "
            "keras.utils.set_random_seed(seed) before the model is built, or shuffle the data in "
            "a keras.utils.PyDataset."
        )

    # A backup of Keras's own class

    def foreign_backup(self, folder: str) -> tuple[str, ...]:
        paths = [
            os.path.join(folder, name + suffix)
            for name in (_FOREIGN_WEIGHTS, _FOREIGN_POSITION)
            for suffix in ("", ".bkp")
        ]
        return tuple(path for path in paths if os.path.lexists(path))

    def take_foreign_backup(self, folder: str) -> int:
        path = os.path.join(folder, _FOREIGN_WEIGHTS)
        try:
            with open(os.path.join(folder, _FOREIGN_POSITION), encoding="utf-8") as file:
                epoch = int(json.load(file)["epoch"])
            self._host.model.load_weights(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            damaged = CheckpointDamagedError.for_path(
                folder, f"it was written by keras.callbacks.BackupAndRestore, and {error}"
            )
            damaged.add_note("Delete these files to start afresh, or restore a copy of them.")
            raise damaged from error
        return epoch


def _trained_by(optimizer: Any) -> list[Any]:
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return list(getattr(inner, "_trainable_variables", ()))


def _is_built(model: Any) -> bool:
    return bool(model.built) and all(layer.built for layer in model._flatten_layers())


def _global_generator() -> Any:
    from keras.src.backend.common import global_state

    return global_state.get_global_attribute(keras.src.random.seed_generator.GLOBAL_SEED_GENERATOR)


def _listed(tree: Any) -> list[Any]:
    """A part's arrays in their order, however the host named them."""
    return list(tree.values()) if isinstance(tree, Mapping) else list(tree)


def _kind(value: Any) -> str:
    dtype = str(value.dtype)
    return f"{keras.backend.standardize_dtype(dtype)}{tuple(value.shape)}"


def _array(variable: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(variable))
