"""P18: F1 as a second condition: stop when accuracy and F1 have stopped improving."""

import json

import pytest

from keras_helpers import Curve, Recorder, epoch_of
from peakhold.errors import InvalidArgumentError, MonitorNotFoundError
from peakhold.keras import EarlyStopping, Seconds, Steps

of_no_framework = pytest.mark.torch_is_enough(
    "what several metrics decide is Python's; what is restored is looked at on every backend"
)

CURVES = {
    "val_accuracy": [0.5, 0.8, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7],
    "val_f1": [0.1, 0.2, 0.3, 0.4, 0.3, 0.3, 0.3, 0.3],
}


def train(model, xy, stopper, *, epochs=8, curves=CURVES, **arguments):
    recorder = Recorder()
    history = model.fit(
        *xy,
        validation_split=0.25,
        epochs=epochs,
        callbacks=[Curve(**curves), recorder, stopper],
        **{"verbose": 0, **arguments},
    )
    return history.epoch, recorder


@pytest.mark.parametrize(("require", "last"), [("all", 5), ("any", 3)])
def test_p18_accuracy_and_f1(xy, classifier, require, last):
    model = classifier()
    stopper = EarlyStopping(
        monitor=["val_accuracy", "val_f1"],
        mode="max",
        patience=2,
        restore_best_weights=True,
        require=require,
    )
    epochs, recorder = train(model, xy, stopper)

    assert epochs[-1] == stopper.stopped_epoch == last
    assert (stopper.best, stopper.best_epoch) == (0.8, 1), "of the first monitor"
    assert epoch_of(model.get_weights(), recorder) == 1


@of_no_framework
def test_p18_the_summary_and_the_table_name_all(xy, classifier, summary, capsys):
    stopper = EarlyStopping(["val_accuracy", "val_f1"], mode="max", patience=2)
    train(classifier(), xy, stopper, verbose=2)
    why, best, _ = summary()
    stopper.explain()
    head, *rows = capsys.readouterr().out.splitlines()

    assert (
        "after epoch 6 of 8: val_accuracy: no improvement for 4 epochs; "
        "val_f1: no improvement for 2 epochs (EarlyStopping)." in why
    )
    assert "best val_accuracy 0.80000 at epoch 2" in best
    assert head.split() == [
        "epoch", "val_accuracy", "best", "wait", "val_f1", "best", "wait", "decision", "reason",
    ]  # fmt: skip
    assert rows[-1].split()[:8] == ["6", "0.7", "0.8", "4", "0.3", "0.4", "2", "stop"]


@of_no_framework
def test_p18_each_has_its_own_direction_and_baseline(xy, classifier):
    """The direction of the loss is known; without a baseline, its best would be epoch 0."""
    stopper = EarlyStopping(
        monitor=["val_f1", "val_loss"],
        mode=["max", "auto"],
        min_delta=[0.0, 0.05],
        baseline=[None, 0.4],
        patience=3,
    )
    curves = {"val_f1": CURVES["val_f1"], "val_loss": [0.9, 0.5, 0.3, 0.28, 0.27, 0.26, 0.25, 0.2]}
    epochs, _ = train(classifier(), xy, stopper, curves=curves)

    assert epochs[-1] == 6
    assert [op.__name__ for op in stopper.monitor_op] == ["greater", "less"]


@of_no_framework
def test_p18_a_metric_that_nobody_logs_is_named(xy, classifier):
    stopper = EarlyStopping(["val_loss", "val_f1"], mode=["min", "max"], patience=2)
    with pytest.raises(MonitorNotFoundError, match="val_f1") as caught:
        train(classifier(), xy, stopper, curves={})

    assert caught.value.monitor == "val_f1"


@of_no_framework
def test_p18_lists_must_fit(xy):
    with pytest.raises(InvalidArgumentError, match="a list of 2, one for each monitor"):
        EarlyStopping(["a", "b"], mode=["min"])


@of_no_framework
@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5])
def test_p18_a_state_through_json_changes_no_later_decision(xy, classifier, cut):
    def stopper():
        return EarlyStopping(["val_accuracy", "val_f1"], mode="max", patience=Steps(9))

    whole = stopper()
    epochs, _ = train(classifier(), xy, whole)
    first, second, model = stopper(), stopper(), classifier()
    train(model, xy, first, epochs=cut)
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    resumed, _ = train(model, xy, second, initial_epoch=cut)

    assert resumed[-1] == epochs[-1] == 6, "3 steps an epoch"
    assert second.state_dict() == whole.state_dict()


@of_no_framework
def test_p18_seconds_of_training_without_the_time_between_runs(xy, classifier, monkeypatch):
    """An hour passes in each epoch, and a day between the two runs."""
    import time

    clock = [0.0]
    monkeypatch.setattr("peakhold.runtime.session.time.monotonic", lambda: clock[0])
    assert time.monotonic() == 0.0

    class Hour(Recorder):
        def on_epoch_end(self, epoch, logs=None):
            clock[0] += 3600

    def run(stopper, model, **arguments):
        return model.fit(
            *xy, validation_split=0.25, epochs=9, verbose=0,
            callbacks=[Hour(), Curve(val_loss=[0.5, *[0.6] * 8]), stopper], **arguments,
        ).epoch  # fmt: skip

    def stopper():
        return EarlyStopping("val_loss", patience=Seconds(3 * 3600))

    assert run(stopper(), classifier())[-1] == 3
    first, second, model = stopper(), stopper(), classifier()
    model.fit(
        *xy, validation_split=0.25, epochs=2, verbose=0,
        callbacks=[Hour(), Curve(val_loss=[0.5, 0.6]), first],
    )  # fmt: skip
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    clock[0] += 24 * 3600

    assert run(second, model, initial_epoch=2)[-1] == 3
