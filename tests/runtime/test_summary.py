"""Every end of a run, and what is said of it: a closed list."""

import pytest

from peakhold.runtime.summary import Best, Ending, duration, shown, summarize, why

BEGUN = {"n_epochs_done": 3, "last_epoch": 2, "epochs": 9, "seconds": 6.0}
ENDS = {
    "all were run": ({"n_epochs_done": 9, "last_epoch": 8}, "after epoch 9 of 9: all epochs were run"),
    "a callback stopped it": ({"reason": "loss: no improvement"}, "after epoch 3 of 9: loss: no improvement"),
    "somebody else did": ({}, "after epoch 3 of 9: something set stop_training"),
    "a loop was left": ({"was_asked": False}, "after epoch 3 of 9: the loop was left"),
    "Ctrl-C after an epoch": ({"interrupted": True}, "after epoch 3 of 9: Ctrl-C"),
    "Ctrl-C in an epoch": ({"interrupted": True, "running_epoch": 3}, "in epoch 4 of 9: Ctrl-C"),
    "Ctrl-C in the first epoch": (
        {"n_epochs_done": 0, "last_epoch": None, "running_epoch": 0, "interrupted": True},
        "in epoch 1 of 9: Ctrl-C",
    ),
    "NaN in the first epoch": (
        {"n_epochs_done": 0, "last_epoch": None, "running_epoch": 0, "reason": "loss is NaN at batch 3"},
        "in epoch 1 of 9: loss is NaN at batch 3",
    ),
    "Ctrl-C before any": (
        {"n_epochs_done": 0, "last_epoch": None, "interrupted": True}, "without an epoch: Ctrl-C"
    ),
    "no epoch was left": ({"n_epochs_done": 0, "last_epoch": None, "epochs": 0}, "without an epoch: none was run"),
    "a loop that says no epochs": ({"epochs": None, "was_asked": False}, "after epoch 3: the loop ended"),
    "one that was stopped": ({"epochs": None}, "after epoch 3: something set stop_training"),
    "an epoch that never ended": (
        {"n_epochs_done": 0, "last_epoch": None, "running_epoch": 0, "was_asked": False},
        "in epoch 1 of 9: the loop was left",
    ),
}  # fmt: skip
TOOK = {
    "all were run": ({"n_epochs_done": 9, "last_epoch": 8}, "9 epochs took 6.0 s."),
    "early": ({}, "3 epochs took 6.0 s; ended 6 epochs early, about 12.0 s."),
    "one early": ({"last_epoch": 7}, "3 epochs took 6.0 s; ended 1 epoch early, about 2.0 s."),
    "one": ({"n_epochs_done": 1, "last_epoch": 8}, "1 epoch took 6.0 s."),
    "none": ({"n_epochs_done": 0, "last_epoch": None}, "0 epochs took 6.0 s."),
    "Ctrl-C in an epoch": (
        {"interrupted": True, "running_epoch": 3},
        "3 epochs took 6.0 s; ended 6 epochs early, about 12.0 s.",
    ),
    "Ctrl-C in an epoch, of which fit tells the end": (
        {"interrupted": True, "last_epoch": 3, "running_epoch": 3},
        "3 epochs took 6.0 s; ended 6 epochs early, about 12.0 s.",
    ),
    "Ctrl-C in the last epoch": (
        {"n_epochs_done": 2, "interrupted": True, "last_epoch": 8, "running_epoch": 8},
        "2 epochs took 6.0 s; ended 1 epoch early, about 3.0 s.",
    ),
    "a loop that counts from 1, and Ctrl-C": (
        {"interrupted": True, "last_epoch": 4, "running_epoch": 4, "first_epoch": 1},
        "3 epochs took 6.0 s; ended 6 epochs early, about 12.0 s.",
    ),
    "a loop that says no epochs": ({"epochs": None}, "3 epochs took 6.0 s."),
}


def ending(**changes):
    return Ending(**{**BEGUN, "reason": None, "interrupted": False, **changes})


class Teller:
    ranks_epochs = True

    def __init__(self, says):
        self.says = says

    def summary(self):
        return self.says


@pytest.mark.parametrize("case", ENDS)
def test_why_a_run_ended(case):
    changes, words = ENDS[case]

    assert why(ending(**changes)) == f"training ended {words}."


@pytest.mark.parametrize("case", TOOK)
def test_how_long_it_took_and_what_was_left(case):
    changes, words = TOOK[case]

    assert summarize(ending(**changes), [])[-1] == f"Peakhold: {words}"


def test_a_run_in_which_nobody_ranks_has_two_lines():
    class Silent(Teller):
        ranks_epochs = False

    assert len(summarize(ending(), [])) == 2
    assert len(summarize(ending(), [Silent("something"), Teller(None)])) == 2


@pytest.mark.parametrize(
    ("tellers", "words"),
    [
        ([Best("loss", 3e-8, 1, "saved in m.keras")], "best loss 3.00e-08 at epoch 2, saved in m.keras."),
        (
            [Best("m", 0.25, 1, "restored to the model"), Best("m", 0.25, 1, "saved in m.keras")],
            "best m 0.25000 at epoch 2, restored to the model, saved in m.keras.",
        ),
        (
            [Best("m", 0.25, 1, "which the model does not hold (it has the last epoch's weights)"),
             Best("m", 0.25, 1, "saved in m.keras")],
            ("best m 0.25000 at epoch 2, which the model does not hold "
             "(it has the last epoch's weights), saved in m.keras."),
        ),
        (
            [Best("m", 0.25, 0, "saved in m.keras", is_earlier=True), Best("m", 0.5, 0, "restored to the model")],
            ("best m 0.25000 at epoch 1 of an earlier fit, saved in m.keras; "
             "best m 0.50000 at epoch 1, restored to the model."),
        ),
        (
            [Best("m", 0.25, 1, "saved in m.keras", note="x"), Best("m", 0.25, 1, "restored to the model")],
            "best m 0.25000 at epoch 2, saved in m.keras, restored to the model; x.",
        ),
        (["ModelCheckpoint saved 3 times, last in 3.keras"], "ModelCheckpoint saved 3 times, last in 3.keras."),
        (["a", "a", None], "a."),
    ],
)  # fmt: skip
def test_what_was_best_and_where_it_is(tellers, words):
    assert summarize(ending(), map(Teller, tellers))[1] == f"Peakhold: {words}"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00000"), (0.97222, "0.97222"), (-0.5, "-0.50000"), (3e-8, "3.00e-08"), (-2e-7, "-2.00e-07"),
     (0.0004, "4.00e-04"), (0.0006, "0.00060"), (12345.678, "12345.67800")],
)  # fmt: skip
def test_a_value_is_told_from_zero(value, text):
    assert shown(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (61, "1 min 1 s"), (3600, "1 h 0 min")]
)
def test_a_time_for_people(seconds, text):
    assert duration(seconds) == text
