"""The contract of a host, as tests that a host of any framework can run.

Subclass it, say how training begins, what a step is and how the state is seen without the host, and
let pytest collect it:

    class TestMyHost(HostTests):
        def start(self): return Trainer(...)                  # as another process would
        def host(self, trainer): return MyHost(trainer)
        def step(self, trainer): trainer.step()
        def live(self, trainer): return {"weights": trainer.params, "optimizer": trainer.moments}

What a test compares, it sees by `live`, never by the host: a host cannot vouch for itself. pytest's
fixture `tmp_path` is the only thing asked of the runner.
"""

from __future__ import annotations

import math
import os
import random
import re
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from peakhold import BackupAndRestore, CallbackList, EarlyStopping
from peakhold.errors import HostError, PeakholdError
from peakhold.host.contract import AVERAGE, OPTIMIZER, WEIGHTS, CannotPlanError, Host
from peakhold.host.gradients import GradientFacts
from peakhold.store import drain
from peakhold.testing.alike import assert_alike, kept, overwrite
from peakhold.trees import fold, library_of, map_tree

__all__ = ["HostTests"]

_EPOCHS = 3


class HostTests:
    """Subclass it, implement `start`, `host`, `step` and `live`, and let pytest collect it."""

    @abstractmethod
    def start(self) -> Any:
        """What is trained, as a process that begins makes it; the kit only hands it on.

        Every one has the same shapes. Other random numbers than the one before show more.
        """

    @abstractmethod
    def host(self, subject: Any) -> Host:
        """The host under test, of this subject."""

    @abstractmethod
    def step(self, subject: Any) -> None:
        """Train a little; every part of the state changes, by what is in it and random numbers.

        Called twice from the same state, with Python's, NumPy's and PyTorch's generators alike, it
        does the same.
        """

    @abstractmethod
    def live(self, subject: Any) -> Mapping[str, Any]:
        """The state as it is now, by part, as the framework itself shows it.

        Arrays that are shown as they live in memory, and not as copies, are written into.
        """

    def rates(self, subject: Any) -> dict[str, float]:
        """The learning rates by name, read without the host; none by default."""
        del subject
        return {}

    def beside(self, subject: Any) -> dict[str, Any]:
        """What else has a state, as `CallbackList(extra=)` takes it: schedulers, scalers, …."""
        del subject
        return {}

    def load(self, subject: Any, path: str) -> None:
        """Load the weights of a file that the host wrote, without the host."""
        raise NotImplementedError(f"the host writes {path}: say how it is loaded")

    def unholdable(self) -> Iterable[tuple[Any, str]]:
        """Subjects with something in their state that cannot be copied, and how that is called."""
        return ()

    # How the kit trains

    def _list(self, subject: Any, callbacks: list[Any]) -> CallbackList:
        return CallbackList(
            callbacks, host=self.host(subject), extra=self.beside(subject), epochs=99, verbose=0
        )

    def _train(self, subject: Any, callbacks: list[Any], *, end: bool = True) -> tuple[Any, Any]:
        """Epochs of one step, the first of which is the best; what was seen after each."""
        loop, seen = self._list(subject, callbacks), []
        loop.on_train_begin()
        for epoch in range(_EPOCHS):
            loop.on_epoch_begin(epoch)
            self.step(subject)
            seen.append(kept(self.live(subject)))
            loop.on_epoch_end(epoch, {"m": float(epoch)})
        if end:
            loop.on_train_end()
        return loop, seen

    def _begun(self) -> tuple[Any, Host]:
        subject = self.start()
        self.step(subject)
        return subject, self.host(subject)

    # The state

    def test_a_step_changes_every_part_and_the_kit_sees_it(self) -> None:
        """A state in which nothing moves would make every other test pass."""
        subject, host = self._begun()
        before = kept(self.live(subject))
        assert set(before) == set(host.parts()) - {AVERAGE}, "live() has the parts of the host"
        self.step(subject)
        for part, now in self.live(subject).items():
            assert _differ(now, before[part]), f"nothing of {part!r} changes"

    def test_parts_are_known_names_and_are_borrowed_one_by_one(self) -> None:
        """A part that was not asked for is not there; one that is not there is left out."""
        _, host = self._begun()
        parts = host.parts()
        assert isinstance(parts, tuple)
        assert WEIGHTS in parts
        assert set(parts) <= {WEIGHTS, OPTIMIZER, AVERAGE}
        for part in parts:
            assert list(host.borrow([part])) == [part]
        assert host.borrow(["nothing of the kind"]) == {}

    def test_what_is_borrowed_is_plain(self) -> None:
        """Dicts, lists, tuples; arrays of NumPy or PyTorch, numbers, text: what a store takes."""
        _, host = self._begun()
        for part, tree in host.borrow(host.parts()).items():
            fold(tree, _check_plain, _check_container, path=part)

    def test_a_snapshot_is_a_copy(self) -> None:
        """Written into right after, in every array, those without dimensions, too."""
        subject, host = self._begun()
        before = kept(self.live(subject))
        snapshot = host.snapshot(host.parts())
        overwrite(self.live(subject))
        for _ in range(2):
            self.step(subject)
        host.restore(snapshot)
        assert_alike(self.live(subject), before)

    def test_what_is_restored_is_not_shared(self) -> None:
        """Training goes on in it, and the snapshot stays good: it is restored again."""
        subject, host = self._begun()
        before = kept(self.live(subject))
        snapshot = host.snapshot(host.parts())
        for _ in range(2):
            host.restore(snapshot)
            assert_alike(self.live(subject), before)
            self.step(subject)
            overwrite(self.live(subject))
        host.restore(snapshot)
        assert_alike(self.live(subject), before)

    def test_plain_copies_are_restored_in_the_live_types(self) -> None:
        """As they come from a file: plain, and of NumPy where the live ones are not."""
        subject, host = self._begun()
        before = kept(self.live(subject))
        plain = {part: map_tree(tree, _as_from_a_file) for part, tree in _borrowed(host).items()}
        self.step(subject)
        host.restore(plain)
        assert_alike(self.live(subject), before)

    def test_weights_alone_leave_the_rest(self) -> None:
        """Best weights are restored so."""
        subject, host = self._begun()
        before, snapshot = kept(self.live(subject)), host.snapshot([WEIGHTS])
        self.step(subject)
        after = kept(self.live(subject))
        host.restore(snapshot)
        now = self.live(subject)
        assert_alike(now[WEIGHTS], before[WEIGHTS])
        for part in set(now) - {WEIGHTS}:
            assert_alike(now[part], after[part], part)

    def test_asking_changes_nothing(self) -> None:
        """Whatever is asked, and before the first step, too."""
        for subject in (self.start(), self._begun()[0]):
            host, weights = self.host(subject), kept(self.live(subject)[WEIGHTS])
            # An optimizer may have been built by that.
            assert isinstance(host.ensure_built(host.parts()), bool)
            assert_alike(self.live(subject)[WEIGHTS], weights)
            before = kept(self.live(subject))
            host.snapshot(host.parts())
            list(host.named_weights())
            assert all(isinstance(name, str) for name in host.nonfinite())
            host.learning_rates(), host.state_bytes(), host.steps_done(), host.describe()
            host.enter_save()
            host.gradient_facts()
            assert_alike(self.live(subject), before)

    def test_names_tell_the_leaves_apart(self) -> None:
        """Messages, histograms and files go by them."""
        subject, host = self._begun()
        names = [name for name, _ in host.named_weights()]
        assert names
        assert len(set(names)) == len(names)
        kinds = np.ndarray | np.generic | int | float | complex
        assert all(isinstance(array, kinds) for _, array in host.named_weights())
        part = host.borrow([WEIGHTS])[WEIGHTS]
        named = host.named(WEIGHTS, part)
        assert len({name for name, _ in named}) == len(named) >= len(names)
        assert host.unsynced_weights() <= {name for name, _ in named} | {*map(str, range(999))}
        size = host.state_bytes()
        sizes = [np.asarray(array).nbytes for _, array in host.named_weights()]
        # What PyTorch holds in 16 bits is shown in 32.
        assert size is None or size >= sum(sizes) / 4 > 0
        of_weights = host.state_bytes(weights_only=True)
        assert (of_weights is None) == (size is None)
        assert size is None or size >= (of_weights or 0) >= sum(sizes) / 4
        del subject

    def test_what_is_not_finite_is_named(self) -> None:
        """One NaN in the weights, seen in the model and in a copy of it."""
        subject, host = self._begun()
        snapshot = host.snapshot([WEIGHTS])
        assert host.nonfinite() == frozenset()
        assert host.nonfinite_in(snapshot) == frozenset()
        poisoned = [0]
        bad = {WEIGHTS: map_tree(_borrowed(host)[WEIGHTS], lambda leaf: _poison(leaf, poisoned))}
        assert poisoned[0] == 1, "no float in the weights"
        host.restore(bad)
        names = host.nonfinite()
        assert len(names) == 1
        assert host.nonfinite_in(host.snapshot([WEIGHTS])) == names
        host.restore(snapshot)
        assert host.nonfinite() == frozenset()
        del subject

    # Callbacks over it

    def test_the_best_weights_come_back_when_training_ends(self) -> None:
        """From memory, and from disk where memory is short."""
        for budget in (None, 1):
            subject = self.start()
            whole = OPTIMIZER in self.host(subject).parts()
            stopping = EarlyStopping(
                "m", mode="min", patience=9, restore_best_weights=True, restore_optimizer=whole,
                memory_budget=budget,
            )  # fmt: skip
            _, seen = self._train(subject, [stopping])
            assert stopping.best_epoch == 0
            assert_alike(self.live(subject), seen[0])

    def test_a_run_that_was_killed_goes_on_with_the_same_bits(self, tmp_path: Path) -> None:
        """In a new process: what its first step makes, generators, rates and extras come back."""
        killed = self.start()
        for name, rate in self.rates(killed).items():
            self.host(killed).set_learning_rate(name, rate / 2)
        loop, seen = self._train(killed, [BackupAndRestore(str(tmp_path))], end=False)
        rates, others = self.rates(killed), kept(_states(self.beside(killed)))
        loop.on_epoch_begin(_EPOCHS)
        self.step(killed)
        expected = kept(self.live(killed))
        drain()

        _draw_other_numbers()
        subject, backup = self.start(), BackupAndRestore(str(tmp_path))
        loop, types = self._list(subject, [backup]), kept(self.live(subject))
        loop.on_train_begin()
        assert backup.initial_epoch == _EPOCHS
        loop.on_epoch_begin(_EPOCHS)
        assert_alike(self.live(subject), seen[-1], types=False)
        assert_alike(self.live(subject)[WEIGHTS], types[WEIGHTS], values=False)
        assert self.rates(subject) == rates
        assert_alike(_states(self.beside(subject)), others, "extra")
        self.step(subject)
        assert_alike(self.live(subject), expected)
        loop.on_epoch_end(_EPOCHS, {"m": 9.0})
        loop.on_train_end()

    def test_what_cannot_be_held_is_refused_by_name(self, tmp_path: Path) -> None:
        """Before the first batch, with what to do, and nothing is written."""
        for number, (subject, name) in enumerate(self.unholdable()):
            folder = tmp_path / str(number)
            loop = self._list(subject, [BackupAndRestore(str(folder))])
            with _raises(PeakholdError, re.escape(name), "Hint:"):
                loop.on_train_begin()
                loop.on_epoch_begin(0)
            drain()
            assert not list(folder.glob("step-*"))

    # Rates

    def test_rates_are_read_and_set_one_by_one(self) -> None:
        """By name; the others stay."""
        subject, host = self._begun()
        expected = self.rates(subject)
        assert host.learning_rates() == expected
        if not expected:
            with _raises(HostError, "Hint:"):
                host.check_rates_settable("ReduceLROnPlateau")
            return
        host.check_rates_settable("ReduceLROnPlateau")
        for name in expected:
            host.set_learning_rate(name, expected[name] / 4)
            expected[name] /= 4
            for rates in (self.rates(subject), host.learning_rates()):
                assert rates.keys() == expected.keys()
                assert all(math.isclose(rates[key], expected[key], rel_tol=1e-6) for key in rates)
        self.step(subject)

    def test_work_is_done_once_before_the_next_step(self) -> None:
        """Or never, where steps cannot be seen; not before one comes."""
        subject, host = self._begun()
        done: list[int] = []
        host.at_next_step(lambda: done.append(1))
        assert done == []
        self.step(subject)
        n_done = len(done)
        self.step(subject)
        assert len(done) == n_done
        host.at_next_step(lambda: done.append(1))
        host.at_next_step(lambda: None)  # the one that was given last is the one

    def test_steps_are_counted_or_nothing_is_said(self) -> None:
        """The count grows."""
        subject, host = self._begun()
        before = host.steps_done()
        self.step(subject)
        after = host.steps_done()
        assert (before is None) == (after is None)
        assert before is None or after is None or after > before >= 1

    # The loop

    def test_a_stop_is_asked_for_seen_and_forgotten(self) -> None:
        """One host's request is not another's; asked for twice is asked for."""
        subject = self.start()
        host = self.host(subject)
        host.clear_stop()
        assert host.stop_requested() is False
        for _ in range(2):
            host.request_stop()
            assert host.stop_requested() is True
        host.clear_stop()
        assert host.stop_requested() is False
        assert self.host(self.start()).stop_requested() is False

    def test_the_loop_is_told_by_its_frame(self) -> None:
        """A stale signal handler asks whether the loop is still running."""
        subject = self.start()
        host = self.host(subject)
        frame = sys._getframe()
        assert host.owns_frame(frame) is False
        host.remember_loop(frame)
        assert host.owns_frame(frame) is True
        assert host.owns_frame(_another_frame()) is False
        assert host.runs_fit() is False

    def test_hints_are_hints(self) -> None:
        """None, or of their type."""
        subject, host = self._begun()
        assert host.validates() in {None, True, False}
        assert isinstance(host.first_validation(), int | None)
        assert isinstance(host.metric_names(), tuple | None)
        assert isinstance(host.metric_directions(), dict)
        curve = host.rate_schedule()
        assert curve is None or ([*map(type, curve)] == [str, int])
        assert host.is_sharded() in {True, False}
        assert isinstance(host.settable_groups(), Mapping)
        host.let_program_count()
        host.call_before_gathering(None)
        host.check_workers()
        del subject

    def test_it_has_words(self) -> None:
        """Of what is trained, and of what versions."""
        subject = self.start()
        host = self.host(subject)
        assert host.describe().strip()
        versions = host.versions()
        assert all(isinstance(one, str) for pair in versions.items() for one in pair)
        assert "peakhold" in versions

    def test_gradients_are_seen_or_refused_in_time(self) -> None:
        """What `check_gradients` lets pass is there after a step."""
        subject = self.start()
        host = self.host(subject)
        for arrays in (False, True):
            if _refuses(partial(host.check_gradients, "TensorBoard", arrays=arrays)):
                continue
            host.forget_gradients()
            self.step(subject)
            facts = host.gradient_facts()
            assert isinstance(facts, GradientFacts)
            assert facts.n_nonfinite == 0
            if arrays:
                assert [name for name, _ in host.gradients() or ()]

    # Files

    def test_a_file_has_the_weights(self, tmp_path: Path) -> None:
        """Of each suffix: loaded by the framework's own means, into one that begins."""
        subject, host = self._begun()
        before = kept(self.live(subject))
        for suffix in host.file_suffixes() or ():
            assert re.fullmatch(r"(\.\w+)+", suffix)
            host.check_file(suffix)
            path = os.path.join(tmp_path, f"model{suffix}")
            with open(path, "w+b") as file:
                host.write(file, suffix, str(tmp_path))
            fresh = self.start()
            self.load(fresh, path)
            assert_alike(self.live(fresh)[WEIGHTS], before[WEIGHTS], types=False)

    def test_a_planned_file_has_the_weights_of_its_moment(self, tmp_path: Path) -> None:
        """What training does until it is written is not in it."""
        subject, host = self._begun()
        for suffix in host.file_suffixes() or ():
            before = kept(self.live(subject))
            try:
                planned = host.plan_file(suffix)
            except CannotPlanError:
                continue
            held = kept(host.borrow(planned.parts))
            self.step(subject)
            path = os.path.join(tmp_path, f"model{suffix}")
            with open(path, "w+b") as file:
                planned.write(file, held)
            fresh = self.start()
            self.load(fresh, path)
            assert_alike(self.live(fresh)[WEIGHTS], before[WEIGHTS], types=False)


@contextmanager
def _raises(kind: type[BaseException], *patterns: str) -> Any:
    seen = None
    try:
        yield
    except kind as error:
        seen = str(error)
    assert seen is not None, f"{kind.__name__} was not raised"
    for pattern in patterns:
        assert re.search(pattern, seen), f"{pattern!r} is not in {seen}"


def _refuses(ask: Callable[[], None]) -> bool:
    try:
        ask()
    except HostError as error:
        said = str(error)
    else:
        return False
    assert "Hint:" in said, said
    return True


def _differ(one: Any, other: Any) -> bool:
    try:
        assert_alike(one, other)
    except AssertionError:
        return True
    return False


def _borrowed(host: Host) -> dict[str, Any]:
    """The parts, as they are kept: copied at once."""
    copied: dict[str, Any] = kept(host.borrow(host.parts()))
    return copied


def _check_plain(leaf: Any, path: str) -> None:
    plain = isinstance(leaf, bool | int | float | complex | str | bytes | None)
    assert plain or library_of(leaf) in {"numpy", "torch"}, f"{path} is {type(leaf)}"


def _check_container(container: Any, _keys: Any, _children: Any, path: str) -> None:
    assert isinstance(container, Mapping | list | tuple), f"{path} is {type(container)}"


def _as_from_a_file(leaf: Any) -> Any:
    """Of PyTorch's tensors what NumPy has a name for is NumPy's."""
    if library_of(leaf) != "torch":
        return leaf
    try:
        return leaf.detach().cpu().resolve_conj().resolve_neg().numpy().copy()
    except TypeError:  # NumPy has none
        return leaf


def _poison(leaf: Any, poisoned: list[int]) -> Any:
    """NaN in the first float array."""
    if poisoned[0] or not library_of(leaf):
        return leaf
    is_float = leaf.dtype.kind == "f" if library_of(leaf) == "numpy" else leaf.is_floating_point()
    if not is_float:
        return leaf
    bad = leaf.copy() if library_of(leaf) == "numpy" else leaf.detach().clone()
    bad[...] = math.nan
    poisoned[0] = 1
    return bad


def _states(extra: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: one[0]() if isinstance(one, tuple | list) else one.state_dict()
        for name, one in extra.items()
    }


def _draw_other_numbers() -> None:
    """As in a process that begins: generators that are in nobody's state stand elsewhere."""
    random.seed(4711)
    np.random.seed(4711)  # noqa: NPY002 - the global one is what is meant
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(4711)


def _another_frame() -> Any:
    return sys._getframe()
