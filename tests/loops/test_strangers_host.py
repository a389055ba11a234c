"""A stranger's host passes the kit, and drives a run; a broken one does not pass."""

import inspect
import tempfile
from pathlib import Path

import numpy as np
import pytest

from peakhold import Run
from peakhold.testing import HostTests
from stranger import Planned, StrangersHost, StrangersResumption, Trainer, copied, load_into


class TestStrangersHost(HostTests):
    kind = StrangersHost

    def start(self):
        return Trainer()

    def host(self, trainer):
        return self.kind(trainer)

    def step(self, trainer):
        trainer.step()

    def live(self, trainer):
        optimizer = {"moments": trainer.moments, "n_steps": trainer.n_steps}
        return {"weights": trainer.params, "optimizer": optimizer}

    def rates(self, trainer):
        return dict(trainer.rates)

    def load(self, trainer, path):
        load_into(trainer, path)

    def unholdable(self):
        trainer = Trainer()
        trainer.params["lock"] = object()
        yield trainer, "lock"


def test_it_drives_a_run_that_is_killed(tmp_path):
    def go(folder, cut=None):
        trainer = Trainer()
        with Run(folder, host=StrangersHost(trainer), monitor="loss", patience=9, verbose=0) as run:
            for epoch in run.epochs(4):
                for batch in run.batches(np.ones((3, 1))):
                    trainer.step()
                    run.log(loss=1.0 / (1 + epoch))
                    if (epoch, cut) == (2, 2):
                        raise ZeroDivisionError
        return trainer

    np.random.seed(0)
    whole = go(tmp_path / "whole")
    np.random.seed(0)
    with pytest.raises(ZeroDivisionError):
        go(tmp_path / "cut", 2)
    np.random.seed(5)
    resumed = go(tmp_path / "cut")
    assert whole.n_steps == resumed.n_steps == 12
    for name, param in whole.params.items():
        np.testing.assert_array_equal(resumed.params[name], param)


# Broken hosts


class Lends(StrangersHost):
    """A snapshot is what lives."""

    def like_live(self, snapshot):
        return snapshot


class LendsWhatHasNoDimensions(StrangersHost):
    def like_live(self, snapshot):
        def of(tree):
            if isinstance(tree, dict):
                return {name: of(one) for name, one in tree.items()}
            return tree if tree.ndim == 0 else tree.copy()

        return {part: of(tree) for part, tree in snapshot.items()}


class GivesItsOwn(StrangersHost):
    """Training goes on in the snapshot."""

    def restore(self, snapshot):
        if "weights" in snapshot:
            self.trainer.params = dict(snapshot["weights"])
        super().restore({part: one for part, one in snapshot.items() if part != "weights"})


class Widens(StrangersHost):
    def restore(self, snapshot):
        weights = snapshot.get("weights", {})
        super().restore({part: one for part, one in snapshot.items() if part != "weights"})
        self.trainer.params.update({k: np.array(v, np.float64) for k, v in weights.items()})


class Narrows(StrangersHost):
    """Bits are lost on the way."""

    def like_live(self, snapshot):
        live = super().like_live(snapshot)
        for name, array in live.get("weights", {}).items():
            live["weights"][name] = array.astype(np.float16).astype(array.dtype)
        return live


class ForgetsMoments(StrangersHost):
    def restore(self, snapshot):
        super().restore(snapshot)
        if "optimizer" in snapshot:
            self.trainer.moments = {}


class ForgetsInANewProcess(StrangersHost):
    """What the first step makes is put back only where it is there already."""

    def restore(self, snapshot):
        moments = self.trainer.moments
        super().restore(snapshot)
        if not moments:
            self.trainer.moments = {}


class RestoresAll(StrangersHost):
    """The optimizer goes back with the weights."""

    kept = None

    def snapshot(self, parts):
        type(self).kept = copied(self.borrow(["optimizer"]))
        return super().snapshot(parts)

    def restore(self, snapshot):
        super().restore({**(self.kept or {}), **snapshot})


class BorrowsAll(StrangersHost):
    def borrow(self, parts):
        return super().borrow(self.parts())


class BorrowsItself(StrangersHost):
    def borrow(self, parts):
        return {part: {**tree, "me": self} for part, tree in super().borrow(parts).items()}


class SetsAllRates(StrangersHost):
    def set_learning_rate(self, name, value):
        for one in self.trainer.rates:
            self.trainer.rates[one] = value


class KeepsRates(StrangersHost):
    def set_learning_rate(self, name, value):
        """Nothing is set."""


class LosesRates(StrangersHost):
    def resumption(self):
        class Without(StrangersResumption):
            def put_back(self, parts, more):
                self.host.restore(parts)

        return Without(self)


class NeverStops(StrangersHost):
    def request_stop(self):
        """Nobody hears it."""


class NeverForgetsAStop(StrangersHost):
    def clear_stop(self):
        """It stays."""


class OwnsEveryFrame(StrangersHost):
    def owns_frame(self, frame):
        return True


class SeesNoNaN(StrangersHost):
    def nonfinite(self):
        return frozenset()


class BuildsAnew(StrangersHost):
    def ensure_built(self, parts):
        self.trainer.params["first"][...] = 0
        return True


class CountsNoSteps(StrangersHost):
    def steps_done(self):
        return 1


class NamesAlike(StrangersHost):
    def named_weights(self):
        return [("weight", one) for one in self.trainer.params.values()]


class WritesTooLate(StrangersHost):
    """A planned file has the weights of when it is written."""

    def plan_file(self, suffix):
        class Late(Planned):
            def write(_, file, held):
                self.write(file, suffix, "")

        return Late()


class WritesHalf(StrangersHost):
    def write(self, file, suffix, scratch):
        whole, self.trainer.params = (
            self.trainer.params,
            {"first": self.trainer.params["first"] * 0},
        )
        super().write(file, suffix, scratch)
        self.trainer.params = whole


class SaysNothing(StrangersHost):
    def describe(self):
        return ""


class PromisesGradients(StrangersHost):
    def check_gradients(self, callback, *, arrays):
        """They will not come."""


BROKEN = {
    Lends: "a_snapshot_is_a_copy",
    LendsWhatHasNoDimensions: "a_snapshot_is_a_copy",
    GivesItsOwn: "what_is_restored_is_not_shared",
    Widens: "a_snapshot_is_a_copy",
    Narrows: "a_snapshot_is_a_copy",
    ForgetsMoments: "what_is_restored_is_not_shared",
    ForgetsInANewProcess: "a_run_that_was_killed_goes_on_with_the_same_bits",
    RestoresAll: "weights_alone_leave_the_rest",
    BorrowsAll: "parts_are_known_names_and_are_borrowed_one_by_one",
    BorrowsItself: "what_is_borrowed_is_plain",
    SetsAllRates: "rates_are_read_and_set_one_by_one",
    KeepsRates: "rates_are_read_and_set_one_by_one",
    LosesRates: "a_run_that_was_killed_goes_on_with_the_same_bits",
    NeverStops: "a_stop_is_asked_for_seen_and_forgotten",
    NeverForgetsAStop: "a_stop_is_asked_for_seen_and_forgotten",
    OwnsEveryFrame: "the_loop_is_told_by_its_frame",
    SeesNoNaN: "what_is_not_finite_is_named",
    BuildsAnew: "asking_changes_nothing",
    CountsNoSteps: "steps_are_counted_or_nothing_is_said",
    NamesAlike: "names_tell_the_leaves_apart",
    WritesTooLate: "a_planned_file_has_the_weights_of_its_moment",
    WritesHalf: "a_file_has_the_weights",
    SaysNothing: "it_has_words",
    PromisesGradients: "gradients_are_seen_or_refused_in_time",
}


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_a_broken_one_fails_where_it_is_broken(kind):
    name = f"test_{BROKEN[kind]}"
    with pytest.raises(AssertionError):
        run(kind, name)
    run(StrangersHost, name)


def run(kind, name):
    """One test of the kit, over a kind of host."""
    kit = TestStrangersHost()
    kit.kind = kind
    test = getattr(kit, name)
    with tempfile.TemporaryDirectory() as folder:
        test(*[Path(folder)] * len(inspect.signature(test).parameters))


def test_what_can_be_held_is_not_refused():
    """A kit whose refusals pass by themselves shows nothing."""

    class AllIsWell(TestStrangersHost):
        def unholdable(self):
            yield Trainer(), "lock"

    with pytest.raises(AssertionError, match="was not raised"), tempfile.TemporaryDirectory() as at:
        AllIsWell().test_what_cannot_be_held_is_refused_by_name(Path(at))
