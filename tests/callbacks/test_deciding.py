"""Participants that decide: what they decide changes nothing; what is applied does."""

import numpy as np
import pytest

import peakhold
from fake_slack import FakeSlack
from participant_rig import Stage
from peakhold import (
    EarlyStopping,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    SlackAlert,
    TerminateOnNaN,
)
from peakhold.errors import MonitorNotFoundError, NonFiniteLossError
from peakhold.extend import (
    Continue,
    Event,
    Measured,
    Missing,
    Participant,
    Participating,
    Remember,
    Restore,
    Save,
    SetLearningRate,
    Skip,
    Stop,
    Tell,
)


def kinds(decisions):
    return [type(decision) for decision in decisions]


# EarlyStopping


def test_early_stopping_stops_when_that_is_applied():
    stage = Stage(EarlyStopping("loss", patience=1))
    stage.apply(*stage.epoch_end(0, loss=0.5))

    decisions = stage.epoch_end(1, loss=0.6)

    assert kinds(decisions) == [Stop]
    assert not stage.stops
    stage.apply(*decisions)
    assert stage.stops
    assert stage.callback.session.stop_reasons == [
        "loss: no improvement for 1 epoch (EarlyStopping)"
    ]


def test_early_stopping_remembers_when_that_is_applied():
    stage = Stage(EarlyStopping("loss", patience=2, restore_best_weights=True))

    decisions = stage.epoch_end(0, loss=0.5)

    assert kinds(decisions) == [Remember]
    assert stage.callback.best_weights is None
    stage.apply(*decisions)
    assert stage.callback.best_weights["w"].tolist() == [0.0, 0.0]


def test_early_stopping_restores_when_that_is_applied():
    stage = Stage(EarlyStopping("loss", patience=2, restore_best_weights=True))
    stage.apply(*stage.epoch_end(0, loss=0.5))
    stage.weights["w"] = np.ones(2)
    stage.apply(*stage.epoch_end(1, loss=0.6))

    decisions = stage.decide(Event.TRAIN_END, 1)

    assert kinds(decisions) == [Restore]
    assert stage.weights["w"].tolist() == [1.0, 1.0]
    stage.apply(*decisions)
    assert stage.weights["w"].tolist() == [0.0, 0.0]


def test_early_stopping_looks_at_the_weights_before_it_decides():
    stage = Stage(EarlyStopping("loss", restore_best_weights=True, patience=1))
    stage.apply(*stage.epoch_end(0, loss=0.5))
    stage.weights["w"] = np.array([1.0, np.nan])

    decisions = stage.epoch_end(1, loss=0.4)  # better, but of weights that are worth nothing

    assert kinds(decisions) == [Stop]
    assert stage.callback.best == 0.5


def test_a_metric_that_is_not_logged_is_decided_too_and_raised_when_that_is_applied():
    stage = Stage(EarlyStopping("acc", patience=2))

    decisions = stage.epoch_end(0, loss=0.5)

    assert kinds(decisions) == [Missing]
    with pytest.raises(MonitorNotFoundError, match="acc"):
        stage.apply(*decisions)


# ReduceLROnPlateau, LearningRateScheduler


def test_reduce_lr_on_plateau_sets_the_rate_when_that_is_applied():
    stage = Stage(ReduceLROnPlateau("loss", patience=1, factor=0.5))
    assert kinds(stage.epoch_end(0, loss=0.5)) == [Continue]
    assert stage.logs["learning_rate"] == 0.1

    decisions = stage.epoch_end(1, loss=0.5)

    assert [(type(one), one.value) for one in decisions] == [(SetLearningRate, 0.05)]
    assert stage.rate == 0.1
    stage.apply(*decisions)
    assert stage.rate == 0.05


def test_learning_rate_scheduler_asks_the_function_and_sets_the_rate_when_that_is_applied():
    stage = Stage(LearningRateScheduler(lambda epoch: 1.0 / (epoch + 1)))
    assert stage.rate == 1.0

    decisions = stage.decide(Event.EPOCH_BEGIN, 1)

    assert [(type(one), one.value) for one in decisions] == [(SetLearningRate, 0.5)]
    assert stage.rate == 1.0
    stage.apply(*decisions)
    assert stage.rate == 0.5


# ModelCheckpoint


def saver(folder, **more):
    path = str(folder / "{epoch}.safetensors")
    return ModelCheckpoint(path, "loss", background=False, **more)


def test_model_checkpoint_writes_when_that_is_applied(tmp_path):
    stage = Stage(saver(tmp_path))

    decisions = stage.epoch_end(0, loss=0.5)

    assert kinds(decisions) == [Save]
    assert not list(tmp_path.iterdir())
    stage.apply(*decisions)
    assert stage.callback.wait()
    assert (tmp_path / "1.safetensors").exists()


def test_model_checkpoint_ranks_by_what_was_decided_before(tmp_path):
    stage = Stage(saver(tmp_path, save_best_only=True))
    stage.apply(*stage.epoch_end(0, loss=0.5))

    decisions = stage.epoch_end(1, loss=0.6)

    assert kinds(decisions) == [Skip]
    stage.apply(*decisions)
    assert stage.callback.wait()
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["1.safetensors"]
    assert kinds(stage.epoch_end(2, loss=0.4)) == [Save]


def test_model_checkpoint_decides_again_what_came_to_nothing(tmp_path, recwarn):
    stage = Stage(saver(tmp_path, save_best_only=True))
    decisions = stage.epoch_end(0, loss=0.5)
    stage.weights["w"] = np.array([np.nan, 0.0])
    stage.apply(*decisions)  # refused: the state is not finite
    stage.weights["w"] = np.zeros(2)

    assert kinds(stage.epoch_end(1, loss=0.6)) == [Save]
    assert "NaN" in str(recwarn.pop().message)


# TerminateOnNaN


def test_terminate_on_nan_stops_when_that_is_applied():
    stage = Stage(TerminateOnNaN())
    assert stage.decide(Event.TRAIN_BATCH_END, batch=0, loss=0.5) == ()

    decisions = stage.decide(Event.TRAIN_BATCH_END, batch=1, loss=float("nan"))

    assert kinds(decisions) == [Stop]
    assert decisions[0].bad
    assert not stage.stops
    stage.apply(*decisions)
    assert stage.stops


def test_terminate_on_nan_raises_when_that_is_applied():
    stage = Stage(TerminateOnNaN(raise_error=True))

    decisions = stage.decide(Event.TRAIN_BATCH_END, batch=1, loss=float("inf"))

    with pytest.raises(NonFiniteLossError, match="batch 1"):
        stage.apply(*decisions)


# Alerts


def test_an_alert_speaks_of_what_was_decided_when_the_moment_is_recorded():
    with FakeSlack() as slack:
        stage = Stage(SlackAlert(slack.url, when="loss < 0.5", min_interval_s=0))
        assert stage.epoch_end(0, loss=0.6) == ()

        decisions = stage.epoch_end(1, loss=0.4)
        stage.apply(*decisions)

        assert kinds(decisions) == [Tell]
        assert stage.callback.flush()
        assert slack.texts == []
        stage.record(*decisions)
        assert stage.callback.flush()
    assert len(slack.texts) == 1
    assert "loss &lt; 0.5" in slack.texts[0]


class Measuring(Participant):
    """Measures by itself, and notes what there is to know afterwards."""

    def __init__(self, measured):
        self.measured, self.seen = measured, []

    def measure(self, moment, logs):
        return Measured(self.measured if moment.event is Event.EPOCH_END else {})

    def record(self, moment, logs, decided):
        if moment.event is Event.EPOCH_END:
            self.seen.append((dict(moment.metrics), dict(logs)))


class Meter(Participating):
    def __init__(self, measured):
        super().__init__(Measuring(measured))


@pytest.mark.parametrize(
    ("measured", "metrics"),
    [
        ({"f1": 0.5}, {"loss": 1.0, "f1": 0.5}),
        ({"loss": 3}, {"loss": 3.0}),
        ({"loss": "gone"}, {}),
        ({"note": "text", 7: 0.5}, {"loss": 1.0, "7": 0.5}),
        ({}, {"loss": 1.0}),
    ],
)
def test_what_is_measured_is_part_of_the_moment_if_it_is_a_number(measured, metrics):
    meter = Meter(measured)
    run = peakhold.CallbackList(meter, host=peakhold.LoopHost(), verbose=0)
    run.on_train_begin()
    run.on_epoch_begin(0)
    run.on_epoch_end(0, {"loss": 1.0})

    assert meter._peakhold_link.participant.seen == [(metrics, {"loss": 1.0, **measured})]
