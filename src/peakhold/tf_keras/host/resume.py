"""What a resume asks of a model of Keras 2.

Rules of this file, found by experiment:

1. `fit` asks `model._training_state` for the first epoch, right after `on_train_begin`, and it is
   where Keras's own `BackupAndRestore` stands. Ours answers once, and takes itself away.
2. Arrays are shuffled by a data set that goes on from epoch to epoch, by operations whose state
   nobody can set. A resumed `fit` has a new one: it is led past the epochs that were trained, which
   gathers their batches and does nothing with them.
3. Dropout draws from a generator per layer if Keras is told so (`enable_tf_random_generator`), and
   that is put back; else from the state of an operation, which cannot be, and is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tf_keras

from peakhold.host.contract import AVERAGE, OPTIMIZER, WEIGHTS
from peakhold.host.resume import EpochRecord
from peakhold.host.settings import note_end, set_by_program, set_once
from peakhold.keras.fit.frame import fit_locals
from peakhold.tf_keras.host.own_callbacks import stateless_base
from peakhold.tf_keras.host.variables import kind_of, path_of

__all__ = ["TFKerasResumption"]

_STATE, _SEEDS = "_training_state", "seeds"
_RATES = ("rate", "stddev", "dropout", "recurrent_dropout")
"""How much a layer draws; where all are 0, it draws nothing."""


class _FirstEpoch:
    """Where `fit` asks for the epoch and the batch to begin with."""

    def __init__(self, model: Any, epoch: int) -> None:
        self._model, self.epoch = model, epoch

    def maybe_load_initial_counters_from_ckpt(self, *_: Any, **__: Any) -> tuple[int, int]:
        """The answer, once."""
        setattr(self._model, _STATE, None)
        return self.epoch, 0


class TFKerasResumption:
    """A model of Keras 2, as a resume sees it.

    Args:
        host: The model's host.
    """

    def __init__(self, host: Any) -> None:
        self._host = host
        self._first = 0

    # Where fit begins

    def set_first_epoch(self, epoch: int | None) -> None:
        model = self._host.model
        if epoch is not None:
            self._first = epoch
            setattr(model, _STATE, _FirstEpoch(model, epoch))
        elif isinstance(getattr(model, _STATE, None), _FirstEpoch):
            setattr(model, _STATE, None)

    # Building

    def build_config(self) -> Any:
        return self._host.model.get_build_config()

    def build(self, config: Any) -> bool:
        model = self._host.model
        if not model.built and config:
            model.build_from_config(dict(config))
        return bool(model.built)

    # State

    def more(self) -> dict[str, Any]:
        seeds = [np.array(array) for array in self._host.borrow([_SEEDS])[_SEEDS]]
        return {_SEEDS: seeds, "rates": self._host.learning_rates()}

    def names(self) -> dict[str, list[str]]:
        parts = self._host.parts()
        return {part: [path_of(v) for v in self._host.variables(part)] for part in parts}

    def to_write(self, parts: Mapping[str, Any]) -> dict[str, Any]:
        return dict(parts)

    def mismatches(self, parts: Mapping[str, Any], names: Mapping[str, list[str]]) -> list[str]:
        host, words = self._host, list[str]()
        if _kinds(host.variables(WEIGHTS)) == _kinds(parts.get(WEIGHTS, ())):
            host.build_optimizer()
        for part in (WEIGHTS, OPTIMIZER, AVERAGE):
            variables, kept = host.variables(part), list(parts.get(part, ()))
            called = [*names.get(part, ()), *["a tensor"] * len(kept)]
            theirs = [f"{n} {k}" for n, k in zip(called, _kinds(kept), strict=False)]
            ours = [f"{path_of(v)} {kind_of(v)}" for v in variables]
            for i in range(max(len(kept), len(variables))):
                both = i < len(kept) and i < len(variables)
                if both and kind_of(kept[i]) == kind_of(variables[i]):
                    continue
                there, here = (one[i] if i < len(one) else "nothing" for one in (theirs, ours))
                words.append(f"{part}: {there} in the backup, {here} in the model")
        return words

    def put_back(self, parts: Mapping[str, Any], more: Mapping[str, Any]) -> None:
        host, snapshot = self._host, {p: parts[p] for p in (WEIGHTS, OPTIMIZER) if p in parts}
        if _kinds(host.variables(_SEEDS)) == _kinds(more[_SEEDS]):
            snapshot[_SEEDS] = more[_SEEDS]
        host.restore(snapshot)
        if AVERAGE in parts:  # the model keeps its own weights
            host._assign(AVERAGE, parts[AVERAGE])
        now = host.learning_rates()
        for name, rate in more["rates"].items():
            if name in now and now[name] != rate:  # of a schedule it follows from the steps
                host.set_learning_rate(name, rate)
        self._lead_past_epochs()

    def _lead_past_epochs(self) -> None:
        """Rule 2."""
        local = fit_locals(self._host.model)
        iterator: Any = local.get("iterator")
        handler: Any = local.get("data_handler")
        if iterator is None or not _shuffles(handler):
            return
        n_epochs = self._first - local.get("initial_epoch", 0)
        for _ in range(n_epochs * (handler.inferred_steps or 0)):
            next(iterator)

    # The record of the epochs

    def passed(self, callbacks: Iterable[Any]) -> EpochRecord | None:
        for one in callbacks:
            if isinstance(one, tf_keras.callbacks.History) and hasattr(one, "epoch"):
                return EpochRecord(list(one.epoch), {k: list(v) for k, v in one.history.items()})
        return None

    def set_passed(self, callbacks: Iterable[Any], passed: EpochRecord) -> None:
        for one in callbacks:
            if isinstance(one, tf_keras.callbacks.History):
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
        rate = config.get("learning_rate")
        if isinstance(rate, Mapping):  # a schedule, as its configuration
            name = str(rate.get("class_name"))
            config["learning_rate"] = name
            config |= {f"{name}.{k}": v for k, v in dict(rate.get("config", {})).items()}
        elif rate is not None:
            config["learning_rate"] = self._host.learning_rates()[""]
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
        driver._should_call_train_batch_hooks = True

    # What cannot be repeated

    def place(self, driver: Any) -> None:
        """Keras 2's `fit` begins an epoch anew."""

    def unrepeatable(self) -> str | None:
        from tensorflow.python.eager import context

        local = fit_locals(self._host.model)
        handler = local.get("data_handler")
        adapter = getattr(handler, "_adapter", None)
        if getattr(adapter, "_shuffle_sequence", False):
            return (
                "cannot bring back the order of the batches: a thread of Keras 2 shuffles those of "
                "a Sequence. For a resume that repeats the run exactly, pass shuffle=False to fit."
            )
        if _shuffles(handler) and context.global_seed() is None:
            return (
                "cannot bring back the order of the batches: TensorFlow shuffles with a seed that "
                "nobody knows. For a resume that repeats the run exactly, call "
                "tf_keras.utils.set_random_seed(seed) before the model is built."
            )
        layers = self._host.model._flatten_layers()
        drawing = [layer.name for layer in layers if _draws_unseen(layer)]
        if drawing:
            return (
                f"cannot bring back what {drawing[0]} draws: an operation of TensorFlow keeps it. "
                "For a resume that repeats the run exactly, call "
                "tf_keras.backend.experimental.enable_tf_random_generator() before the model is "
                "built."
            )
        return None

    # A backup of Keras's own class is a checkpoint of TensorFlow, which only that class reads

    def foreign_backup(self, folder: str) -> tuple[str, ...]:
        return ()

    def take_foreign_backup(self, folder: str) -> int:
        raise NotImplementedError


def _kinds(values: Iterable[Any]) -> list[str]:
    return [kind_of(value) for value in values]


def _shuffles(handler: Any) -> bool:
    """Whether it hands out arrays in an order that is drawn."""
    return bool(getattr(getattr(handler, "_adapter", None), "_shuffle", False))


def _draws_unseen(layer: Any) -> bool:
    generator = getattr(layer, "_random_generator", None)
    if generator is None or generator._rng_type == "stateful":
        return False
    rates = [vars(layer)[name] for name in _RATES if name in vars(layer)]
    return not rates or any(rates)  # an LSTM could drop, and mostly does not
