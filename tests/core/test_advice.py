import pytest

from peakhold.advice import Checkpoint, Facts, Plateau, Stopper, give, rules


def codes(**facts):
    return [advice.code for advice in give(Facts(**facts))]


STOPPER = Stopper("val_loss", "auto", 8, restores=True)
BEST = Checkpoint("best.keras", "val_accuracy", "auto", best_only=True, fixed_name=True)


def test_the_usual_stack_gets_no_advice():
    """A false alarm is a bug: P4 and P7 of the programs are right as they are."""
    assert (
        codes(
            epochs=100,
            validates=True,
            stoppers=(STOPPER,),
            plateaus=(Plateau("val_loss", "auto", 3),),
            checkpoints=(BEST,),
            paths=("best.keras", "log.csv"),
        )
        == []
    )


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"validates": True, "stoppers": (Stopper("loss", "auto", 3, True),)}, "E2"),
        ({"stoppers": (Stopper("val_accuracy", "min", 3, True),)}, "E3"),
        ({"stoppers": (Stopper("val_loss", "auto", 3, False),)}, "E4"),
        ({"stoppers": (STOPPER,), "plateaus": (Plateau("val_loss", "auto", 8),)}, "E6"),
        ({"stoppers": (Stopper("val_loss", "auto", 0, True),)}, "E7"),
        ({"epochs": 8, "stoppers": (STOPPER,)}, "E7"),
        ({"checkpoints": (Checkpoint("m.h5", "val_loss", "auto", False, True),)}, "E8"),
        ({"paths": ("a.keras", "a.keras")}, "E8"),
    ],
)
def test_each_rule_speaks_up_and_names_its_cure(facts, code):
    (advice,) = give(Facts(**facts))

    assert advice.code == code
    assert f'peakhold.silence("{code}")' in str(advice)


@pytest.mark.parametrize(
    "facts",
    [
        {"validates": None, "stoppers": (Stopper("loss", "auto", 3, True),)},
        {"validates": False, "stoppers": (Stopper("loss", "auto", 3, True),)},
        {"validates": True, "stoppers": (Stopper("my_own", "min", 3, True),)},
        {"stoppers": (Stopper("val_loss", "min", 3, True),)},
        {"epochs": 9, "stoppers": (STOPPER,)},
        {"stoppers": (STOPPER,), "plateaus": (Plateau("val_mae", "auto", 20),)},
        {"epochs": 1, "checkpoints": (Checkpoint("m.h5", "val_loss", "auto", False, True),)},
        {"checkpoints": (Checkpoint("{epoch}.h5", "val_loss", "auto", False, False),)},
        {"paths": ("a.keras", "b.keras")},
    ],
)
def test_no_rule_speaks_up_without_cause(facts):
    assert codes(**facts) == []


def test_a_silenced_rule_is_silent(monkeypatch):
    monkeypatch.setattr(rules, "_silenced", set())
    rules.silence("E4", "E7")

    assert codes(stoppers=(Stopper("val_loss", "auto", 0, False),)) == []
