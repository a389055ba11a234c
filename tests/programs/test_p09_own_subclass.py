"""P9: a callback that a user wrote, which posts to a webhook; as it is, and where it crashes."""

import http.server
import json
import threading
import urllib.request

import pytest

import keras
import peakhold.keras as ours
from keras_helpers import Curve, Recorder, epoch_of, saved_weights
from peakhold.keras import Callback, EarlyStopping, ModelCheckpoint, SlackAlert

of_no_framework = pytest.mark.torch_is_enough(
    "whom a user's own class calls, and when, is Python's"
)


@pytest.fixture
def webhook():
    """An address that takes messages, and the messages."""
    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(json.loads(body)["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook", received
        server.shutdown()
        thread.join()


def slack_notifier(base):
    """The program's class; only its base is another one."""

    class SlackNotifier(base):
        def __init__(self, webhook_url):
            super().__init__()
            self.webhook_url = webhook_url

        def on_epoch_end(self, epoch, logs=None):
            if logs.get("val_accuracy") > 0.92:
                message = {"text": f"Epoch {epoch + 1}: {logs['val_accuracy']:.2f}"}
                request = urllib.request.Request(
                    self.webhook_url,
                    data=json.dumps(message).encode(),
                    headers={"Content-Type": "application/json"},
                )
                urllib.request.urlopen(request, timeout=30).close()

    return SlackNotifier


@of_no_framework
@pytest.mark.parametrize(
    "base", [Callback, keras.callbacks.Callback], ids=["import-swapped", "keras-own"]
)
def test_p09_a_users_own_callback_runs_beside_ours(xy, classifier, base, webhook, tmp_path):
    url, received = webhook
    path, model, recorder = tmp_path / "best.keras", classifier(), Recorder()
    saver = ModelCheckpoint(path, monitor="val_accuracy", save_best_only=True)
    stopper = EarlyStopping("val_accuracy", patience=2, restore_best_weights=True)
    curve = Curve(val_accuracy=[0.5, 0.93, 0.97, 0.91, 0.9])
    model.fit(
        *xy,
        validation_split=0.25,
        epochs=10,
        callbacks=[curve, saver, slack_notifier(base)(url), stopper, recorder],
        verbose=0,
    )

    assert received == ["Epoch 2: 0.93", "Epoch 3: 0.97"]
    assert epoch_of(model.get_weights(), recorder) == 2
    assert epoch_of(saved_weights(path), recorder) == 2


@of_no_framework
@pytest.mark.parametrize(
    "base", [Callback, keras.callbacks.Callback], ids=["import-swapped", "keras-own"]
)
def test_p09_its_crash_is_the_users_own_and_costs_nothing(xy, classifier, base, webhook, tmp_path):
    """The first epoch has no validation: `None > 0.92`. What was saved before stays good."""
    url, received = webhook
    path, model, recorder = tmp_path / "best.keras", classifier(), Recorder()
    saver = ModelCheckpoint(path, monitor="accuracy", save_best_only=True)
    stopper = EarlyStopping("accuracy", restore_best_weights=True, patience=3)
    with pytest.raises(TypeError, match="'>' not supported between instances of 'NoneType'"):
        model.fit(
            *xy,
            epochs=10,
            callbacks=[recorder, saver, stopper, slack_notifier(base)(url)],
            verbose=0,
        )

    assert received == []
    assert epoch_of(saved_weights(path), recorder) == 0
    stopper.restore_best()
    assert epoch_of(model.get_weights(), recorder) == 0
    # And the callbacks are as good as new.
    again = model.fit(*xy, epochs=4, callbacks=[stopper], verbose=0)
    assert len(again.epoch) >= 2


def test_p09_every_hook_of_a_users_own_callback_is_called_as_keras_calls_it(xy, classifier):
    def recording(base):
        hooks = [name for name in dir(keras.callbacks.Callback) if name.startswith("on_")]
        calls = []

        def hook(name):
            def call(self, *arguments, **named):
                kinds = [a if isinstance(a, int) else sorted(a or {}) for a in arguments]
                calls.append((name, kinds, sorted(named), self.model is model, dict(self.params)))

            return call

        return type("Recording", (base,), {name: hook(name) for name in hooks}), calls

    told = []
    for base in (ours.Callback, keras.callbacks.Callback):
        model = classifier()
        cls, calls = recording(base)
        watch = [cls()]
        model.fit(*xy, validation_split=0.25, epochs=2, callbacks=watch, verbose=0)
        model.evaluate(*xy, callbacks=watch, verbose=0)
        model.predict(xy[0], callbacks=watch, verbose=0)
        told.append(calls)

    assert told[0] == told[1]
    # `on_batch_begin` and `on_batch_end` are reached through those that it overrides.
    assert len({name for name, *_ in told[0]}) == 14


def test_p09_old_names_of_batch_hooks_are_called(xy, classifier):
    class Old(Callback):
        batches = ()

        def on_batch_end(self, batch, logs=None):
            self.batches += ((batch, "loss" in logs),)

    old = Old()
    classifier().fit(*xy, epochs=1, callbacks=[old], verbose=0)

    assert old.batches == ((0, True), (1, True), (2, True))


@of_no_framework
@pytest.mark.parametrize("order", [1, -1])
def test_p09_a_users_subclass_of_a_drop_in_keeps_its_super(xy, classifier, order, tmp_path):
    """What stands after `super()` finds the work done, wherever it stands in the list."""
    seen = []

    class Loud(EarlyStopping):
        def on_epoch_end(self, epoch, logs=None):
            before = self.best
            super().on_epoch_end(epoch, logs)
            seen.append((before, self.best, self.model.stop_training))

    class Named(ModelCheckpoint):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            seen.append(self.latest_path)

    path = str(tmp_path / "m.keras")
    callbacks = [Loud("val_loss", patience=1), Named(path)][::order]
    curve = Curve(val_loss=[0.5, 0.4, 0.6])
    classifier().fit(*xy, validation_split=0.25, epochs=9, callbacks=[curve, *callbacks], verbose=0)
    bests = [entry for entry in seen if entry != path]

    assert bests == [(None, 0.5, False), (0.5, 0.4, False), (0.4, 0.4, True)]
    assert seen.count(path) == 3


@of_no_framework
def test_p09_slack_alert_does_it_without_the_crash_once_and_in_the_background(
    xy, classifier, webhook
):
    """No validation in the first epochs, then three above the bar."""
    url, received = webhook
    alert = SlackAlert(url, when="val_accuracy > 0.92")
    curve = Curve(only_if_there=True, val_accuracy=[0, 0.5, 0, 0.93, 0, 0.97, 0, 0.95])
    classifier().fit(
        *xy, validation_split=0.25, validation_freq=2, epochs=8, callbacks=[curve, alert], verbose=0
    )
    assert alert.flush(60)

    assert len(received) == 1
    assert received[0].endswith(
        "] epoch 4 of 8: val_accuracy &gt; 0.92\n"
        "val_accuracy 0.93; best val_accuracy 0.93 at epoch 4"
    )
