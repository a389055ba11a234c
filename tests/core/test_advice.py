import pytest

from peakhold import LearningRateScheduler
from peakhold._core.monitor import Direction
from peakhold._core.patience import Seconds, Steps
from peakhold.advice import (
    Plateau,
    RunSettings,
    Saver,
    Schedule,
    Stopper,
    advise_on,
    differing,
    said,
)


def codes(**facts):
    return [advice.code for advice in advise_on(RunSettings(**facts))]


def stopper(patience=8, monitor="val_loss", **more):
    return {"stoppers": (Stopper(monitor, "auto", patience, **{"restores": True, **more}),)}


def plateau(patience, monitor="val_loss"):
    return {"plateaus": (Plateau(monitor, "auto", patience),)}


def checkpoint(*, best_only=False, overwrites=True, mode="auto"):
    return {"savers": (Saver("m.h5", "val_accuracy", mode, best_only, overwrites),)}


RUN = {"epochs": 100, "steps": 10}
COSINE = {"schedules": (Schedule("CosineDecay", 1000),)}


def test_the_usual_stack_gets_no_advice():
    """A false alarm is a bug: P4 and P7 of the programs are right as they are."""
    facts = {
        **RUN,
        "validates": True,
        "first_validation": 1,
        **stopper(),
        **plateau(3),
        **checkpoint(best_only=True),
        "paths": ("best.keras", "log.csv", "logs"),
    }

    assert codes(**facts) == []


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"validates": True, **stopper(monitor="loss")}, "E2"),
        ({"validates": True, **plateau(3, "accuracy")}, "E2"),
        (
            {
                "validates": True,
                "directions": {"gap": Direction.MIN},
                "plateaus": (Plateau("gap", "min", 3),),
            },
            "E2",
        ),
        ({"stoppers": (Stopper("val_accuracy", "min", 3, True),)}, "E3"),
        (checkpoint(best_only=True, mode="min"), "E3"),
        (
            {"directions": {"gap": Direction.MAX}, "plateaus": (Plateau("val_gap", "min", 3),)},
            "E3",
        ),
        (stopper(restores=False), "E4"),
        ({**stopper(), **plateau(8)}, "E6"),
        ({**stopper(start=2), **plateau(10)}, "E6"),
        ({**stopper(Steps(80)), **plateau(Steps(80))}, "E6"),
        ({**stopper(Seconds(60)), **plateau(Seconds(60))}, "E6"),
        ({**RUN, **stopper(Steps(80)), **plateau(8)}, "E6"),
        ({**RUN, **stopper(8), **plateau(Steps(80))}, "E6"),
        (stopper(0), "E7"),
        ({"epochs": 8, **stopper()}, "E7"),
        ({"epochs": 10, **stopper(start=2)}, "E7"),
        ({**RUN, **stopper(Steps(1000))}, "E7"),
        (checkpoint(), "E8"),
        ({"paths": ("a.keras", "a.keras")}, "E8"),
        ({"epochs": 5, "first_validation": 6}, "E11"),
        ({"strangers": ("WORLD_SIZE", 4), "paths": ("m.h5", "m.h5-{worker}")}, "E12"),
        ({**RUN, **stopper(), **COSINE}, "E15"),
        ({**RUN, **stopper(), "schedules": (Schedule("CosineDecay", 980),)}, "E15"),
        ({**RUN, **stopper(), "schedules": (Schedule("CosineDecay", 100, by_epoch=True),)}, "E15"),
    ],
)
def test_each_rule_speaks_up_and_names_its_cure(facts, code):
    (advice,) = advise_on(RunSettings(**facts))

    assert advice.code == code
    assert f'peakhold.silence("{code}")' in str(advice)


@pytest.mark.parametrize(
    "facts",
    [
        # E2: nobody knows whether it validates; it does not; nobody knows what the metric is
        {"validates": None, **stopper(monitor="loss")},
        {"validates": False, **stopper(monitor="loss")},
        {"validates": True, "stoppers": (Stopper("my_own", "min", 3, True),)},
        # E3: the metric itself knows better than its name
        {"stoppers": (Stopper("val_loss", "min", 3, True),)},
        {
            "directions": {"odd_accuracy": Direction.MIN},
            "stoppers": (Stopper("val_odd_accuracy", "min", 3, True),),
        },
        # E4: another one restores
        {"stoppers": (*stopper()["stoppers"], *stopper(restores=False)["stoppers"])},
        # E6: another metric; the other metrics must have stopped, too; a late start; no common unit
        {**stopper(), **plateau(20, "val_mae")},
        {**stopper(alone=False), **plateau(20)},
        {**stopper(start=20), **plateau(10)},
        {**stopper(), **plateau(7)},
        {**stopper(Seconds(60)), **plateau(10)},
        {**stopper(Steps(80)), **plateau(10)},
        {**stopper(Steps(80), start=1), **plateau(Steps(80))},
        {**RUN, **stopper(Steps(80)), **plateau(7)},
        # E7
        {"epochs": 9, **stopper()},
        {**RUN, **stopper(Steps(999))},
        {"epochs": 9, **stopper(Steps(999))},
        {"epochs": 9, **stopper(Seconds(9999))},
        # E8
        {"epochs": 1, **checkpoint()},
        checkpoint(overwrites=False),
        checkpoint(best_only=True),
        {"paths": ("a.keras", "b.keras")},
        # E12
        {"strangers": ("WORLD_SIZE", 4), "paths": ("m-{worker}.h5",)},
        {"strangers": None, "paths": ("m.h5",)},
        # E11
        {"epochs": 6, "first_validation": 6},
        {"epochs": None, "first_validation": 6},
        {"epochs": 6, "first_validation": None},
        # E15: no stopping; none that could; a curve that is over early; an unknown length
        {**RUN, **COSINE},
        {**RUN, **stopper(), "schedules": (Schedule("CosineDecay", 500),)},
        {**RUN, **stopper(), "schedules": (Schedule("CosineDecay", -1000),)},
        {"epochs": 100, **stopper(), **COSINE},
    ],
)
def test_no_rule_speaks_up_without_cause(facts):
    assert codes(**facts) == []


def test_a_stopping_that_cannot_stop_takes_no_schedule_its_end():
    assert codes(**RUN, **stopper(100), **COSINE) == ["E7"]


def test_a_scheduler_tells_of_a_curve_and_of_nothing_else():
    """A function would have to be called to know what it does."""

    class CosineDecay:
        decay_steps, warmup_steps = 20, 5

        def __call__(self, epoch):
            raise AssertionError

    class ExponentialDecay(CosineDecay):
        pass

    told = [
        LearningRateScheduler(schedule)._peakhold_link.participant.advise(RunSettings()).schedules
        for schedule in (CosineDecay(), ExponentialDecay(), lambda epoch: 0.1)
    ]

    assert told == [(Schedule("CosineDecay", 25, by_epoch=True),), (), ()]


@pytest.mark.parametrize(
    ("bests", "n"),
    [
        ([("val_loss", 3), ("val_accuracy", 5)], 1),
        ([("val_loss", 3), ("val_accuracy", 3)], 0),
        ([("val_loss", 3), ("val_loss", 5)], 0),
        ([("val_loss", 3)], 0),
        ([], 0),
    ],
)
def test_different_metrics_are_named_in_the_summary_and_nowhere_else(bests, n):
    found = list(differing(bests))

    assert len(found) == n
    assert all((advice.code, advice.level) == ("E5", "summary") for advice in found)


def test_a_silenced_rule_is_silent(monkeypatch):
    monkeypatch.setattr(said, "_silenced", set())
    said.silence("E4", "E5", "E7")

    assert codes(**stopper(0, restores=False)) == []
    assert list(differing([("val_loss", 3), ("val_accuracy", 5)])) == []
