"""Where Keras's `fit` is inside an epoch, and how it goes on there.

Problem. `fit` begins with whole epochs. A first epoch that is shorter, or other data for its rest,
would not be the same run: the order of the data is drawn as the epoch begins, TensorFlow counts a
step whose data have run out (K-R15), PyTorch draws once more as a pass ends.

Solution. Keras's `EpochIterator` is on the call stack when training begins (ADR 0006), and both of
its methods that a pass goes through are replaced on that one object. When a pass begins it is noted
from which random numbers. A run that goes on makes the same pass from the same numbers, lets go
what was trained, and only then hands the loop its first batch: the calls before it happen without
the loop, so nobody's hook sees them, no step is run, and batch numbers are right. Just before that
batch all is put back once more: hooks that ran as the epoch began have had their turn.

Rules of this file:

1. A place is a border: where the loop asks for the next batch. All hooks of the last one have run
   then, and nothing of the next one has been drawn.
2. A pass may be longer than an epoch (`steps_per_epoch`): what is kept is the place in the pass.
3. Nothing here holds the iterator, which holds the data.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import keras
from peakhold.errors import InvalidArgumentError
from peakhold.keras.fit.frame import fit_locals
from peakhold.keras.fit.repeatable import has_state, tensorflow_seed, why_not_repeatable
from peakhold.runtime.random_state import random_state, set_random_state

__all__ = ["FitPlace", "place_in_fit"]

_WITH_STATE = 2  # arguments of JAX's train function: the state, which it also returns, and the data


def place_in_fit(host: Any, driver: Any) -> FitPlace | str:
    """The place of the `fit` that begins now, or why there is none, and what to do.

    Args:
        host: The model's.
        driver: Keras's list, which calls the hooks.
    """
    iterator: Any = fit_locals(host.model).get("epoch_iterator")
    needed = ("_enumerate_iterator", "_get_iterator", "data_adapter", "_steps_seen")
    if driver is None or not all(hasattr(iterator, name) for name in needed):
        return (
            f"the loop of {type(host.model).__name__} is not Keras's own; call fit of keras.Model"
        )
    strategy = getattr(host.model, "distribute_strategy", None)
    n_replicas = getattr(strategy, "num_replicas_in_sync", 1)
    if n_replicas > 1 or keras.distribution.distribution() is not None:
        return "the model is trained on several devices; train on one"
    words = why_not_repeatable(iterator.data_adapter)
    return words or FitPlace(host, driver, iterator)


@final
class _Pass:
    """One pass over the data: what it began from."""

    def __init__(self) -> None:
        self.number: int | None = None
        """How many counted before it; None as long as it does not count itself."""
        self.made: Any = None
        """The random numbers as it was made."""
        self.begun: Any = None
        """The same as its first batch was asked for; None before."""


@final
class FitPlace:
    """The place of one `fit`.

    Args:
        host: The model's.
        driver: Keras's list.
        iterator: Keras's `EpochIterator`.
    """

    def __init__(self, host: Any, driver: Any, iterator: Any) -> None:
        self._host, self._driver = host, weakref.ref(driver)
        self._iterator = weakref.ref(iterator)
        self._generators = _generators(iterator.data_adapter)
        self._data_has_state = has_state(getattr(iterator.data_adapter, "py_dataset", None))
        self._program = {
            "data": type(iterator.data_adapter).__name__,
            "batch_size": _whole(iterator.data_adapter.batch_size),
            "steps_per_epoch": iterator.steps_per_epoch,
            "steps_per_execution": iterator.steps_per_execution,
            "seed of TensorFlow": tensorflow_seed() if _shuffles_by_seed(iterator) else None,
        }
        """What a program must say as it did; else a place is another."""
        self.matters_between_epochs = bool(
            iterator.steps_per_epoch
            or iterator.num_batches is None
            or self._generators
            or self._data_has_state
            or _is_tf_data(iterator)
        )
        self._n_passes = 0
        """Passes that count: of which the next one's order may depend."""
        self._pass: _Pass | None = None
        self._calls = 0
        """Calls of the train function that the running epoch has seen."""
        self._data: Any = None
        """The state of the data set as the epoch began, if it has one."""
        self._before: dict[str, Any] = {}
        """What hooks find that see the epoch begin."""
        self._due: Callable[[], Any] | None = None
        self._from: Mapping[str, Any] | None = None
        """The place to go on from, until it is found."""
        self._remade: Mapping[str, Any] | None = None
        """The same, until the pass is made again."""
        self._arrive: Callable[[bool], Any] = bool
        self._say: Callable[[str], Any] = str
        self._using: Callable[[], AbstractContextManager[None]] = nullcontext
        iterator._enumerate_iterator, iterator._get_iterator = self._enumerate, self._get

    # What `BackupAndRestore` asks

    def note_epoch(self) -> None:
        """An epoch is about to begin, and no hook has seen it."""
        self._calls, self._due = 0, None
        self._before = {
            "random": random_state(),
            "rates": self._host.learning_rates(),
            "steps": _number_of(_counter(self._host)),
        }

    def at_border(self, work: Callable[[], Any]) -> None:
        """Have work done when the loop asks for the next batch."""
        self._due = work

    def state(self, logs: Mapping[str, float] | None) -> dict[str, Any]:
        """The place, for a backup.

        Args:
            logs: What the last batch has logged; None at an epoch's end.
        """
        iterator: Any = self._iterator()
        within = logs is not None
        goes_on = within or (iterator.steps_per_epoch and iterator._current_iterator is not None)
        this = self._pass if goes_on else None
        number = None if this is None else this.number
        state = {
            **self._program,
            "num_batches": iterator._num_batches,
            "calls": self._calls if within else 0,
            "position": iterator._steps_seen if this is not None else 0,
            "n_passes": self._n_passes if number is None else number,
            "made": None if this is None else this.made,
            "begun": None if this is None else this.begun,
            "generators": self._generator_states() if self._generators else [],
            "data_state": None,
        }
        if self._data_has_state:
            state["data_state"] = self._data if within else self._data_state()
        if within:
            metrics = [_kind(one) for one in self._host.model.metrics_variables]
            state |= {"logs": dict(logs or {}), "before": self._before, "metrics": metrics}
        return state

    def take(
        self,
        state: Mapping[str, Any],
        arrive: Callable[[bool], Any],
        say: Callable[[str], Any],
        using: Callable[[], AbstractContextManager[None]],
    ) -> str | None:
        """Go on from this place in the first epoch.

        Args:
            state: From `state`.
            arrive: Puts all back as it was there; is told whether the metrics, too.
            say: Tells people what could not be known before.
            using: What of the state cannot be looked at beforehand is used in it.

        Returns:
            Why that cannot be, and None if it can.
        """
        iterator = self._the_iterator()
        for name, now in self._program.items():
            if state[name] != now:
                return f"{name} is {now} in this program and was {state[name]}"
        if (state["data_state"] is not None) != self._data_has_state:
            return "the data set has a state, and had none, or the other way round"
        known, was = iterator._num_batches, state["num_batches"]
        if not self._data_has_state and known is not None and known != was:
            return f"the data have {known} batches and had {was}"
        counts = [state[name] for name in ("calls", "position", "n_passes")]
        if not all(type(one) is int and one >= 0 for one in counts):
            raise ValueError(f"counts are {counts!r:.60}")
        iterator._num_batches = state["num_batches"]
        self._from = self._remade = state
        self._arrive, self._say, self._using = arrive, say, using
        return None

    def words(self) -> str:
        """How it goes on, after "goes on with epoch 3"."""
        at = self._from
        if at is None or not at["calls"]:
            return ""
        n_batches = at["calls"] * at["steps_per_execution"]
        further = at["position"] - n_batches
        more = f" and {further} of earlier epochs" if further else ""
        return f", after its batch {n_batches}; these{more} are read again and not trained"

    @property
    def is_within(self) -> bool:
        """Whether the place to go on from is inside an epoch."""
        return self._from is not None and self._from["calls"] > 0

    def show_beginning(self) -> None:
        """Have hooks that see the epoch begin find the random numbers, rates and steps of then."""
        before = (self._from or {}).get("before") or {}
        now = self._host.learning_rates()
        for name, rate in before.get("rates", {}).items():
            if name in now and now[name] != rate:
                self._host.set_learning_rate(name, rate)
        counter = _counter(self._host)
        if counter is not None and before.get("steps") is not None:
            counter.assign(before["steps"])
        if before:
            with self._using():
                set_random_state(before["random"])

    def put_metrics_back(self, arrays: Sequence[Any]) -> None:
        """What the batches before have added up to."""
        self._host.restore({"metrics": arrays})

    def put_generators_back(self) -> None:
        """Generators of the data's own."""
        if self._from is not None:
            self._set_generators(self._from["generators"])

    # The pass

    def _the_iterator(self) -> Any:
        return self._iterator()  # which lives as long as `fit` runs

    def _get(self) -> Any:
        iterator = self._the_iterator()
        return _Beginning(self, type(iterator)._get_iterator(iterator))

    def begin_pass(self, data: Any) -> Any:
        """Make a pass over the data, or make one again up to its place.

        Args:
            data: What Keras iterates over.
        """
        again, self._remade = self._remade, None
        if again is None:
            return self._new_pass(data)
        self._make_passes(again["n_passes"])
        if again["made"] is None:
            return self._new_pass(data)
        now = self._random()
        with self._using():
            self._set_random(again["made"])
        batches = self._new_pass(data)
        if again["begun"] is not None:
            with self._using():
                self._set_random(again["begun"])
            self._read_again(batches, again["position"])
        if self._pass is not None:
            self._pass.made, self._pass.begun = again["made"], again["begun"]
        self._set_random(now)
        return batches

    def _read_again(self, batches: Any, n: int) -> None:
        done = sum(1 for _ in itertools.islice(batches, n))
        if n - done >= self._the_iterator().steps_per_execution:  # the last call may have had less
            raise InvalidArgumentError.for_argument(
                "x",
                f"{done} batches",
                f"data of at least {n} batches, as before",
                hint="pass the same data, or delete the backup to train anew.",
            )

    def _new_pass(self, data: Any) -> Any:
        self._pass = this = _Pass()
        this.made = self._random()
        batches = iter(data)
        if _is_of_tensorflow(batches):
            self._count(this)
            return batches  # the train function knows it by its class

        def lazily() -> Iterator[Any]:
            self._count(this)
            this.begun = this.begun or self._random()
            yield from batches

        return lazily()

    def _count(self, this: _Pass) -> None:
        this.number = self._n_passes
        self._n_passes += 1

    def _make_passes(self, n: int) -> None:
        """Each pass over a shuffle of `tf.data` has another order: the first ones are let go."""
        iterator = self._the_iterator()
        if _is_tf_data(iterator):
            for _ in range(self._n_passes, n):
                iter(iterator.data_adapter._dataset)
        self._n_passes = max(n, self._n_passes)

    # The epoch

    def _enumerate(self) -> Iterator[tuple[int, int, Any]]:
        """In the place of Keras's own: the calls of an epoch."""
        iterator, at = self._the_iterator(), self._from
        if at is not None and at["calls"] and not self._has_metrics(at["metrics"]):
            self._say("cannot build the metrics before a batch, and begins the epoch anew.")
            self._arrive(False)
            at = self._from = self._remade = None
        if at is not None:
            with self._using():
                self._load_data_state(at["data_state"])
        self._data = self._data_state()
        if at is not None and iterator.steps_per_epoch and at["made"] is not None:
            iterator._current_iterator = self.begin_pass(type(iterator)._get_iterator(iterator))
            first = at["calls"] * iterator.steps_per_execution
            iterator._steps_seen = at["position"] - first
        calls = type(iterator)._enumerate_iterator(iterator)
        if at is not None:
            yield from self._go_on(calls, at)
        for call in calls:
            this = self._pass
            if this is not None and this.begun is None and _is_of_tensorflow(call[2]):
                this.begun = self._random()
            yield call
            self._calls += 1
            if self._due is not None:
                due, self._due = self._due, None
                due()

    def _go_on(
        self, calls: Iterator[tuple[int, int, Any]], at: Mapping[str, Any]
    ) -> Iterator[tuple[int, int, Any]]:
        """Let go the calls that were made, and put all back.

        `fit` takes what an epoch has logged from its last call. There may be none left: it is given
        one that trains nothing, and of which no hook is told.
        """
        passed = list(itertools.islice(calls, at["calls"]))
        if passed:
            self._arrive(True)
        else:
            self.put_generators_back()
        self._from, self._arrive, self._calls = None, bool, at["calls"]  # they hold all of a backup
        if not passed:
            return
        model, driver, trains = self._host.model, self._driver(), self._host.model.train_function

        def told(*arguments: Any) -> Any:
            model.train_function = trains
            logs = dict(at["logs"])
            return (logs, arguments[0]) if len(arguments) == _WITH_STATE else logs

        model.train_function = told
        for name in ("on_train_batch_begin", "on_train_batch_end"):
            _once_silent(driver, name)
        yield passed[-1][0], passed[-1][1], itertools.repeat(None)

    # State

    def _has_metrics(self, kinds: Sequence[str]) -> bool:
        """Whether the model has the variables of its metrics; they are built if need be."""
        model = self._host.model

        def same() -> bool:
            return [_kind(one) for one in model.metrics_variables] == list(kinds)

        dataset = getattr(self._the_iterator(), "_distributed_dataset", None)
        if not same() and dataset is not None and hasattr(model, "_symbolic_build"):
            # TensorFlow makes them in its first step. A failure is one of the user's layers.
            try:
                model._symbolic_build(data_batch=dataset.element_spec)
            except Exception:
                return False
        return same()

    def _data_state(self) -> Any:
        data: Any = getattr(self._the_iterator().data_adapter, "py_dataset", None)
        return data.state_dict() if self._data_has_state else None

    def _load_data_state(self, state: Any) -> None:
        data: Any = getattr(self._the_iterator().data_adapter, "py_dataset", None)
        if state is not None:
            data.load_state_dict(state)

    def _random(self) -> dict[str, Any]:
        return {"random": random_state(), "generators": self._generator_states()}

    def _set_random(self, state: Mapping[str, Any]) -> None:
        set_random_state(state["random"])
        self._set_generators(state["generators"])

    def _generator_states(self) -> list[Any]:
        return [one.get_state().numpy() for one in self._generators]

    def _set_generators(self, states: Sequence[Any]) -> None:
        for one, state in zip(self._generators, states, strict=False):
            tensor = one.get_state()
            one.set_state(tensor.new_tensor(state))


@final
class _Beginning:
    """What Keras asks for a pass."""

    def __init__(self, place: FitPlace, data: Any) -> None:
        self._place, self._data = place, data

    def __iter__(self) -> Any:
        return self._place.begin_pass(self._data)


def _generators(adapter: Any) -> list[Any]:
    """Those of a DataLoader's own."""
    loader = getattr(adapter, "_dataloader", None)
    batches = getattr(loader, "batch_sampler", None)
    owners = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    found = {id(one): one for owner in owners if (one := getattr(owner, "generator", None))}
    return [one for one in found.values() if hasattr(one, "get_state")]


def _once_silent(driver: Any, hook: str) -> None:
    """Have a list call nobody for a hook the next time."""
    before = vars(driver).get(hook)

    def silent(*_: Any, **__: Any) -> None:
        if before is None:
            vars(driver).pop(hook, None)
        else:
            setattr(driver, hook, before)

    setattr(driver, hook, silent)


def _is_of_tensorflow(batches: Any) -> bool:
    return type(batches).__module__.startswith("tensorflow.")


def _shuffles_by_seed(iterator: Any) -> bool:
    """Whether TensorFlow may draw the order, from a seed that the program sets."""
    return hasattr(iterator, "_distributed_dataset") or _is_tf_data(iterator)


def _is_tf_data(iterator: Any) -> bool:
    return hasattr(getattr(iterator.data_adapter, "_dataset", None), "_inputs")


def _counter(host: Any) -> Any:
    optimizer = host.optimizer
    return getattr(getattr(optimizer, "inner_optimizer", optimizer), "_iterations", None)


def _number_of(counter: Any) -> int | None:
    return None if counter is None else int(keras.ops.convert_to_numpy(counter))


def _whole(size: Any) -> int | None:
    return None if size is None else int(size)


def _kind(variable: Any) -> str:
    return f"{variable.dtype}{tuple(variable.shape)}"
