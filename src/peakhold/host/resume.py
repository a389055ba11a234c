"""What a resume asks of a framework, beyond copying parts of the model and putting them back.

A host answers with a `Resumption`: `LoopResumption` here for loops, and one in each framework's own
package. Like the host, it is the only one that looks into users' objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from peakhold.host.settings import (
    note_end,
    note_rate,
    rate_by_program,
    set_by_program,
    set_once,
)
from peakhold.host.torch_tensors import is_lazy, is_sparse_parts
from peakhold.trees import NUMBERS, fold

__all__ = ["EpochPlace", "EpochRecord", "LoopResumption", "Resumption", "shapes_that_differ"]


class EpochRecord(NamedTuple):
    """The epochs that were trained, as the framework's own record has them."""

    epochs: list[int]
    """Indices of the epochs, from 0."""
    metrics: dict[str, list[Any]]
    """Values by metric, in the order in which they were logged."""


class EpochPlace(Protocol):
    """Where the framework's own loop is inside an epoch, and how it goes on there."""

    matters_between_epochs: bool
    """Whether the next epoch hangs on more of it than on random numbers: a pass, or an order."""

    @property
    def is_within(self) -> bool:
        """Whether the place to go on from is inside an epoch."""

    def note_epoch(self) -> None:
        """An epoch is about to begin, and no hook has seen it."""

    def at_border(self, work: Callable[[], Any]) -> None:
        """Have work done when the loop asks for the next batch."""

    def state(self, logs: Mapping[str, float] | None) -> dict[str, Any]:
        """The place as a tree, with what the last batch has logged; None at an epoch's end."""

    def take(
        self,
        state: Mapping[str, Any],
        arrive: Callable[[bool], Any],
        say: Callable[[str], Any],
        using: Callable[[], AbstractContextManager[None]],
    ) -> str | None:
        """Go on from this place in the first epoch; returns why not, or None."""

    def show_beginning(self) -> None:
        """Have hooks that see the epoch begin find what they found then."""

    def put_metrics_back(self, arrays: Sequence[Any]) -> None:
        """What the batches before have added up to."""

    def put_generators_back(self) -> None:
        """Generators of the data's own."""

    def words(self) -> str:
        """How it goes on, after "goes on with epoch 3"; nothing at an epoch's beginning."""


class Resumption(Protocol):
    """All that `BackupAndRestore` asks of the world, besides `Host`."""

    def set_first_epoch(self, epoch: int | None) -> None:
        """Have the loop that begins now start at this epoch; None takes that back."""

    def build_config(self) -> Any:
        """What `build` needs, as a plain tree; None if nothing is known or needed."""

    def build(self, config: Any) -> bool:
        """Make the model's variables where they are missing; whether they are there now."""

    def more(self) -> dict[str, Any]:
        """Copies of state that is none of the host's parts: seeds, metrics, the framework's RNG."""

    def names(self) -> dict[str, list[str]]:
        """What people call the arrays of each part, in their order; for messages only."""

    def to_write(self, parts: Mapping[str, Any]) -> dict[str, Any]:
        """The parts without what two of them hold."""

    def mismatches(self, parts: Mapping[str, Any], names: Mapping[str, list[str]]) -> list[str]:
        """What does not fit the model, in words, the first first; empty if all does."""

    def put_back(self, parts: Mapping[str, Any], more: Mapping[str, Any]) -> None:
        """Put parts and the rest back, exactly: the next epoch runs as if nothing had happened."""

    def passed(self, callbacks: Iterable[Any]) -> EpochRecord | None:
        """What the framework's own record of this run holds; None if there is none."""

    def set_passed(self, callbacks: Iterable[Any], passed: EpochRecord) -> None:
        """Fill the framework's own record."""

    def fit_settings(self) -> dict[str, Any]:
        """What the framework's own loop was called with, as far as a resume depends on it."""

    def settings(self) -> dict[str, Any]:
        """What the optimizer is set to now: its class, its rate, and what else it was given."""

    def program_settings(self) -> dict[str, Any]:
        """Of these, what the program has set, and no run of ours has left behind."""

    def changing_settings(self) -> frozenset[str]:
        """Of these, what training may change, and a backup brings back."""

    def how_to_set(self, setting: str, value: str, epoch: int) -> str:
        """What to write for a setting that the backup has brought back.

        Args:
            setting: Which.
            value: What the program says.
            epoch: The epoch that the run goes on with, as the loop counts.
        """

    def note_end(self) -> None:
        """The run is over: what the optimizer is set to is what it has left behind."""

    def stateless_base(self, callback: Any) -> type | None:
        """The class below a user's own which a resume may begin anew; None if it has a state."""

    def call_batch_hooks(self, driver: Any) -> None:
        """See that hooks for a batch's end are called from now on, in the thread that trains."""

    def unrepeatable(self) -> str | None:
        """Why this run cannot be repeated exactly, and what to do; None if nothing is known."""

    def place(self, driver: Any) -> EpochPlace | str | None:
        """The place of the framework's own loop; why there is none; None for other loops."""

    def foreign_backup(self, folder: str) -> tuple[str, ...]:
        """Paths of a backup that the framework's own class left in `folder`; empty if none."""

    def take_foreign_backup(self, folder: str) -> int:
        """Load that backup into the model; the epoch to go on with.

        Raises:
            CheckpointDamagedError: If it cannot be read.
        """


_RATES = frozenset({"lr", "learning_rate"})


class LoopResumption:
    """A loop that somebody wrote: it asks `BackupAndRestore.initial_epoch` where to begin.

    Args:
        host: The host of the loop; its parts are trees of arrays.
    """

    def __init__(self, host: Any) -> None:
        self._host = host

    def set_first_epoch(self, epoch: int | None) -> None:
        """Nothing to tell a loop."""

    def build_config(self) -> Any:
        """Nothing is known of how the model is built."""

    def build(self, config: Any) -> bool:
        """A loop's model is there, or nobody can make it."""
        return True

    def more(self) -> dict[str, Any]:
        """Rates that no part holds."""
        return {"rates": self._host.learning_rates()}

    def names(self) -> dict[str, list[str]]:
        """Trees carry their own names."""
        return {}

    def to_write(self, parts: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing is held twice."""
        return dict(parts)

    def mismatches(self, parts: Mapping[str, Any], names: Mapping[str, list[str]]) -> list[str]:
        """Weights are compared by name and shape; an optimizer may not have its slots yet."""
        words = []
        if "optimizer" in parts:
            words += self._host.optimizers.mismatches(parts["optimizer"])
        if "weights" not in parts:
            return words
        words += self._other_optimizer(parts.get("optimizer"))
        live = _arrays(self._host.borrow(["weights"]).get("weights"))
        kept = _arrays(self._host.fitted(parts["weights"]))
        # A number may have become an array; two that are none need not both be there.
        arrays = [
            name
            for name in dict.fromkeys([*kept, *live])
            if _is_array(kept.get(name)) or _is_array(live.get(name))
        ]
        return words + _differing(arrays, kept, live, "the model")

    def _other_optimizer(self, kept: Any) -> list[str]:
        """PyTorch loads the state of one class into another, and fails in its first step."""
        only = self._host.optimizers.by_name.get("")
        groups = getattr(only, "param_groups", None)
        theirs = kept.get("param_groups") if isinstance(kept, Mapping) else None
        if not groups or not theirs:
            return []
        gone, new = theirs[0].keys() - groups[0].keys(), groups[0].keys() - theirs[0].keys()
        if not gone - {"initial_lr"} or not new - {"initial_lr"}:
            return []  # of another version, or with a scheduler
        lists = [", ".join(sorted(names - {"initial_lr"})) for names in (gone, new)]
        name = type(only).__name__
        return [f"optimizer: one with {lists[0]} in the backup, {name} with {lists[1]} in the loop"]

    def put_back(self, parts: Mapping[str, Any], more: Mapping[str, Any]) -> None:
        """Put back by the host's own functions."""
        known = self._host.parts()
        self._host.restore({part: tree for part, tree in parts.items() if part in known})
        now = self._host.learning_rates()
        for name, rate in more.get("rates", {}).items():
            if name in now and now[name] != rate:
                self._host.set_learning_rate(name, rate)

    def passed(self, callbacks: Iterable[Any]) -> EpochRecord | None:
        """A loop keeps its own record."""

    def set_passed(self, callbacks: Iterable[Any], passed: EpochRecord) -> None:
        """A loop keeps its own record."""

    def fit_settings(self) -> dict[str, Any]:
        """A loop is called with nothing that is known."""
        return {}

    def settings(self) -> dict[str, Any]:
        """Of each optimizer; the names of several stand before the settings'."""
        found = {key: value for _, own in self._optimizers() for key, value in own.items()}
        return found or self._bare_rate()

    def _bare_rate(self) -> dict[str, Any]:
        """The rate of a loop without an optimizer that tells its settings, as one in JAX."""
        rates = self._host.learning_rates()
        if "" not in rates or any(own for _, own in self._optimizers()):
            return {}
        return {"learning_rate": rates[""]}

    def _optimizers(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Each optimizer, with what it is set to."""
        for name, optimizer in self._host.optimizers.by_name.items():
            before = f"{name}." if name else ""
            yield optimizer, {before + key: one for key, one in _settings_of(optimizer).items()}

    def program_settings(self) -> dict[str, Any]:
        """An optimizer of PyTorch that has a state has been trained."""
        changing, found = self.changing_settings(), dict[str, Any]()
        for optimizer, own in self._optimizers():
            trained = bool(getattr(optimizer, "state", None))
            found |= set_by_program(optimizer, own, changing, trained=trained)
        bare = {name: rate for name, rate in self._bare_rate().items() if rate_by_program(rate)}
        return found | bare

    def changing_settings(self) -> frozenset[str]:
        """PyTorch's own state of an optimizer holds all of them."""
        names = frozenset(name for name in self.settings() if name.rpartition(".")[2] != "class")
        if self._host.program_counts:
            return frozenset(name for name in names if name.rpartition(".")[2] in _RATES)
        return names

    def how_to_set(self, setting: str, value: str, epoch: int) -> str:
        """Where a loop may set it."""
        if self._bare_rate():
            return set_once(value, epoch)
        if self._host.program_counts:
            return "set it on the optimizer in the loop, when its first epoch has begun"
        return "set it on the optimizer after the first `on_epoch_begin(epoch)`"

    def note_end(self) -> None:
        """For a loop that goes on in this process."""
        for optimizer, own in self._optimizers():
            note_end(optimizer, own)
        for rate in self._bare_rate().values():
            note_rate(rate)

    def stateless_base(self, callback: Any) -> type | None:
        """Ours have a state and say so: what is below a user's own class has none."""
        return object

    def call_batch_hooks(self, driver: Any) -> None:
        """A loop's list always calls them."""

    def unrepeatable(self) -> str | None:
        """Nothing is known."""

    def place(self, driver: Any) -> EpochPlace | str | None:
        """A loop says itself where it is, or begins with whole epochs."""

    def foreign_backup(self, folder: str) -> tuple[str, ...]:
        """No other class writes backups of loops."""
        return ()

    def take_foreign_backup(self, folder: str) -> int:
        """There is none."""
        raise NotImplementedError


def shapes_that_differ(kept: Any, live: Any) -> list[str]:
    """Arrays that both of two states have, in another shape, in words."""
    was, is_ = _arrays(kept), _arrays(live)
    both = [name for name in was if _is_array(was[name]) and _is_array(is_.get(name))]
    return _differing(both, was, is_, "this run")


def _differing(
    names: Iterable[str], was: Mapping[str, Any], is_: Mapping[str, Any], where: str
) -> list[str]:
    """Those that have another shape now, in words."""
    return [
        f"{name}: {_shape(was.get(name))} in the backup, {_shape(is_.get(name))} in {where}"
        for name in names
        if _shape(was.get(name)) != _shape(is_.get(name))
        and not is_lazy(is_.get(name))  # it takes the shape that it is given
    ]


def _arrays(tree: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def note(leaf: Any, path: str) -> None:
        if isinstance(leaf, NUMBERS) or _is_array(leaf):
            found[path or "0"] = leaf

    fold(tree, note, lambda *_: None, separator=".", is_leaf=is_sparse_parts)
    return found


def _is_array(leaf: Any) -> bool:
    return is_lazy(leaf) or is_sparse_parts(leaf) or hasattr(leaf, "shape")


def _shape(leaf: Any) -> str:
    if leaf is None or is_lazy(leaf):
        return "nothing"
    shape = leaf["size"] if is_sparse_parts(leaf) else getattr(leaf, "shape", ())
    return str(tuple(shape))


def _settings_of(optimizer: Any) -> dict[str, Any]:
    """The first group's of an optimizer of PyTorch; of any other its class and its rate."""
    found = {"class": type(optimizer).__name__}
    groups = getattr(optimizer, "param_groups", None)
    if groups:
        defaults = getattr(optimizer, "defaults", {})
        return {**found, **{name: groups[0][name] for name in defaults if name in groups[0]}}
    rate = getattr(optimizer, "learning_rate", None)
    return found if rate is None else {**found, "learning_rate": float(rate)}
