"""The rest of Keras's set: the list of names, RemoteMonitor, SwapEMAWeights."""

import copy
import http.server
import json
import os
import pickle
import socket
import threading
import time
import urllib.parse
import warnings

import numpy as np
import pytest

import keras
import peakhold
import peakhold.keras as ours
from keras_helpers import Curve, Recorder, data, fit, model, same, saved_weights
from peakhold.alerts import remote_sender
from peakhold.errors import InvalidArgumentError, PeakholdWarning, RemoteWarning
from peakhold.keras import (
    BackupAndRestore,
    EarlyStopping,
    ModelCheckpoint,
    RemoteMonitor,
    SwapEMAWeights,
)
from peakhold.keras.callback import KerasCallback
from peakhold.runtime.participant import Keeper
from peakhold.runtime.participating import Participating

of_no_framework = pytest.mark.torch_is_enough(
    "what is sent, lost, told or copied is Python's; a fit sends its numbers on every backend"
)

NOT_OURS = {
    "OrbaxCheckpoint": "docs/reference/callbacks.md says what to use instead",
}
KERAS_OWN = {"History", "LambdaCallback", "ProgbarLogger"}


def _names(module):
    return {name for name in vars(module) if name[0].isupper()}


def test_every_name_of_keras_callbacks_is_here():
    assert _names(keras.callbacks) - set(ours.__all__) == set(NOT_OURS)


def test_which_of_them_are_keras_own():
    shared = _names(keras.callbacks) & set(ours.__all__)

    assert {n for n in shared if getattr(ours, n) is getattr(keras.callbacks, n)} == KERAS_OWN


# RemoteMonitor


class Server:
    """A real server on this machine; `behave(request)` says what it does with each request."""

    def __init__(self, behave=lambda handler: handler.answer(200)):
        received = self.received = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append((self.path, dict(self.headers), body))
                behave(self)

            def answer(self, status):
                self.send_response(status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *arguments):
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = False
        self.root = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self):
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def events(self):
        return [json.loads(body) for _, _, body in self.received]


@pytest.fixture
def hanging():
    """A server that takes requests and answers none before the test is over."""
    over = threading.Event()
    with Server(lambda handler: over.wait(60)) as server:
        yield server
        over.set()


@pytest.fixture
def refusing():
    """An address at which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture
def told():
    """What was warned of: our warnings, as text."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield lambda: [str(w.message) for w in caught if issubclass(w.category, PeakholdWarning)]


def _senders():
    return [t for t in threading.enumerate() if t.name == "peakhold-remote-monitor"]


def _sockets():
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:  # the listing's own
            continue
    return {link for link in links if link.startswith("socket:")}


def _metrics(events):
    return [event["loss"] for event in events]


@of_no_framework
def test_a_form_arrives_as_keras_would_send_it(told):
    with Server() as server:
        monitor = RemoteMonitor(server.root, headers={"X-Run": "7"})
        monitor.on_epoch_end(3, {"loss": 0.5, "val": np.arange(1), "acc": np.float32(0.25)})
    ((path, headers, body),) = server.received
    ((field, value),) = urllib.parse.parse_qsl(body.decode())

    assert (path, headers["X-Run"]) == ("/publish/epoch/end/", "7")
    assert headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert field == "data"
    assert value == '{"epoch": 3, "loss": 0.5, "val": 0, "acc": 0.25}'
    assert told() == []


@of_no_framework
def test_the_body_is_what_requests_would_send():
    requests = pytest.importorskip("requests")
    send = {"epoch": 0, "loss": 0.1, "a b": "ü&="}
    with Server() as server:
        for as_json in (False, True):
            RemoteMonitor(server.root, send_as_json=as_json).on_epoch_end(0, send)
        requests.post(server.root, {"data": json.dumps(send)}, timeout=5)
        requests.post(server.root, json=send, timeout=5)
    form, as_json, their_form, their_json = server.received

    assert urllib.parse.parse_qsl(form[2]) == urllib.parse.parse_qsl(their_form[2])
    assert json.loads(as_json[2]) == json.loads(their_json[2])
    assert as_json[1]["Content-Type"] == their_json[1]["Content-Type"] == "application/json"


def test_json_has_no_nan():
    logs = {"loss": float("nan"), "many": np.array([1.0, np.inf]), "tensor": keras.ops.ones(())}
    with Server() as server:
        RemoteMonitor(server.root, "/e", send_as_json=True).on_epoch_end(0, logs)
        RemoteMonitor(server.root, "/e").on_epoch_end(0, {"loss": float("nan")})
    strict, form = (body.decode() for _, _, body in server.received)

    assert json.loads(strict) == {"epoch": 0, "loss": None, "many": [1.0, None], "tensor": 1.0}
    assert "NaN" in urllib.parse.unquote(form)


def test_fit_sends_every_epoch_in_order_and_waits_for_the_last(told):
    with Server() as server:
        fitted = fit(model(), [RemoteMonitor(server.root, send_as_json=True)], 6)

    assert [event["epoch"] for event in server.events()] == list(range(6))
    assert _metrics(server.events()) == fitted.history["loss"]
    assert [event["val_mae"] for event in server.events()] == fitted.history["val_mae"]
    assert (told(), _senders()) == ([], [])


@of_no_framework
def test_it_sees_what_our_other_callbacks_add_wherever_it_stands():
    with Server() as server:
        monitor = RemoteMonitor(server.root, send_as_json=True)
        fit(model(), [monitor, ours.LearningRateScheduler(lambda epoch: 0.5**epoch)], 2)

    assert [event["learning_rate"] for event in server.events()] == [1.0, 0.5]


@of_no_framework
def test_a_hanging_server_holds_nobody_up(hanging, told):
    """The server answers only when the test is over: whoever waited for it would never get there."""
    before, fitted = _sockets(), fit(model(), [RemoteMonitor(hanging.root, timeout=0.2)], 4)

    assert len(fitted.epoch) == 4
    (message,) = told()
    assert "Could not reach RemoteMonitor root server" in message
    assert _senders() == []
    # Each request that arrived holds one socket at the server's side; one that is still on its way
    # there is not ours either, and arrives.
    until = time.monotonic() + 30
    while len(_sockets() - before) > len(hanging.received) and time.monotonic() < until:
        time.sleep(0.01)
    assert len(_sockets() - before) <= len(hanging.received)


@of_no_framework
def test_a_time_limit_longer_than_the_run_is_kept_at_its_end(hanging, told, monkeypatch):
    """Nothing has failed when `fit` ends: it waits, hangs up, and leaves neither thread nor event."""
    joined, own = [], threading.Thread.join

    def join(thread, timeout=None):
        if thread.name == "peakhold-remote-monitor":
            joined.append(timeout)
            timeout = 0.2 if timeout == 30 else timeout
        own(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", join)
    fit(model(), [RemoteMonitor(hanging.root, timeout=30)], 3)

    assert joined[0] == 30
    assert sum(joined[1:]) <= 1
    assert _senders() == []
    assert len(hanging.received) == 1
    assert len(told()) == 1
    assert "3 of the epochs are lost" in told()[0]


@of_no_framework
@pytest.mark.parametrize("kind", ["refusing", "failing", "garbage", "closing"])
def test_a_failure_is_told_once_and_the_next_run_tells_again(kind, refusing, told):
    def behave(handler):
        if kind == "failing":
            handler.answer(500)
        elif kind == "garbage":
            handler.wfile.write(b"\x00\x01 no HTTP\r\n\r\n")

    before = _sockets()
    with Server(behave) as server:
        monitor = RemoteMonitor(refusing if kind == "refusing" else server.root)
        for n_runs in (1, 2):
            fit(model(), [monitor], 3)
            assert len(told()) == n_runs
        n_received = len(server.received)

    assert n_received == (0 if kind == "refusing" else 6)  # a failure does not end the sending
    assert all("Could not reach RemoteMonitor root server" in text for text in told())
    assert kind != "failing" or "it answered 500" in told()[0]
    assert (_senders(), _sockets() - before) == ([], set())


@of_no_framework
def test_a_server_that_comes_back_gets_what_comes_after():
    answers = iter([503, 200, 200])
    with Server(lambda handler: handler.answer(next(answers))) as server:
        with pytest.warns(RemoteWarning, match="503"):
            fit(model(), [RemoteMonitor(server.root, send_as_json=True)], 3)

    assert [event["epoch"] for event in server.events()] == [0, 1, 2]


@of_no_framework
def test_only_so_many_epochs_wait_and_the_oldest_is_lost(hanging, monkeypatch, told):
    monkeypatch.setattr(remote_sender, "MAX_WAITING", 2)
    waiting = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            waiting.append(len(monitor._peakhold_link.participant.sender._waiting))

    monitor = RemoteMonitor(hanging.root, timeout=1)
    fit(model(), [monitor, Look()], 8)

    assert max(waiting) == 2
    assert len(told()) == 1


@of_no_framework
def test_an_exception_in_fit_leaves_no_thread():
    class Break(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise RuntimeError("broken")

    with Server() as server:
        monitor = RemoteMonitor(server.root, send_as_json=True)
        with pytest.raises(RuntimeError, match="broken"):
            fit(model(), [monitor, Break()], 3)
        for thread in _senders():  # it ends by itself when nothing waits any more
            thread.join(30)
        assert _senders() == []
        assert [event["epoch"] for event in server.events()] == [0, 1]
        fit(model(), [monitor], 1)

    assert [event["epoch"] for event in server.events()] == [0, 1, 0]


@of_no_framework
def test_called_by_hand_it_sends_at_once(refusing):
    monitor = RemoteMonitor(refusing)

    with pytest.warns(RemoteWarning, match="Could not reach RemoteMonitor root server"):
        monitor.on_epoch_end(0, {"loss": 0.0})
    with Server() as server:
        peakhold.RemoteMonitor(server.root, send_as_json=True).on_epoch_end(1, {"loss": 0.5})
        assert server.events() == [{"epoch": 1, "loss": 0.5}]
    assert _senders() == []


@of_no_framework
def test_in_a_loop_it_sends_in_the_background():
    with Server() as server:
        monitor = peakhold.RemoteMonitor(server.root, send_as_json=True)
        callbacks = peakhold.CallbackList(monitor, verbose=0)
        callbacks.on_train_begin()
        for epoch in range(3):
            callbacks.on_epoch_begin(epoch)
            callbacks.on_epoch_end(epoch, {"loss": 1 / (epoch + 1)})
        callbacks.on_train_end()
        assert _metrics(server.events()) == [1, 1 / 2, 1 / 3]
    assert _senders() == []


@of_no_framework
def test_a_password_in_the_url_is_sent_and_never_shown(refusing):
    with Server() as server:
        url = server.root.replace("//", "//ann:se%40cret@")
        RemoteMonitor(url).on_epoch_end(0, {})
    assert server.received[0][1]["Authorization"] == "Basic YW5uOnNlQGNyZXQ="

    with pytest.warns(RemoteWarning) as caught:
        RemoteMonitor(refusing.replace("//", "//ann:secret@")).on_epoch_end(0, {})
    assert "secret" not in str(caught[0].message)


@of_no_framework
def test_neither_a_token_nor_a_password_of_plain_words_is_shown(refusing):
    """In a path, a query or a header."""
    place = refusing.removeprefix("http://")
    for root, more in (
        (f"http://ann:hunterpass@{place}?token=sesame", {}),
        (f"http://{place}", {"path": "/hunterpass/", "headers": {"Key": "Bearer sesame"}}),
        (f"http://{place}", {"headers": {"Key": "hunterpass\nsesame"}}),  # http.client shows it
    ):
        with pytest.warns(RemoteWarning) as caught:
            RemoteMonitor(root, **more).on_epoch_end(0, {})
        text = str(caught[0].message)
        assert "sesame" not in text
        assert "hunterpass" not in text


@of_no_framework
@pytest.mark.parametrize(
    "arguments",
    [
        {"root": "ftp://ann:hunterpass@x"}, {"timeout": 0}, {"field": 3}, {"headers": "hunterpass"},
        {"root": "http://[hunterpass"}, {"root": "http://ann:hunterpass/x@y"},
    ],
    ids=["scheme", "timeout", "field", "headers", "bracket", "port"],
)  # fmt: skip
def test_no_error_and_no_frame_of_an_error_shows_a_password(arguments):
    import traceback

    given = {
        "root": "http://ann:hunterpass@x", "path": "/hunterpass",
        "headers": {"Key": "hunterpass"}, **arguments,
    }  # fmt: skip
    with pytest.raises(ValueError) as caught:
        RemoteMonitor(**given)

    text = "".join(
        traceback.TracebackException(
            caught.type, caught.value, caught.tb.tb_next, capture_locals=True
        ).format()
    )
    assert "hunterpass" not in text


@of_no_framework
@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"root": "localhost:9000"}, "***"),
        ({"root": "file:///etc/passwd"}, "***"),
        ({"root": 7}, "7"),
        ({"timeout": 0}, "0"),
        ({"headers": "X-Run: 7"}, "***"),
        ({"field": ""}, "''"),
    ],
)
def test_arguments_that_cannot_mean_anything(arguments, value):
    with pytest.raises(InvalidArgumentError) as caught:
        RemoteMonitor(**arguments)

    assert (caught.value.argument, repr(caught.value.value)) == (next(iter(arguments)), value)


@of_no_framework
def test_it_can_be_copied_and_pickled_used_or_not(refusing):
    monitor = RemoteMonitor("http://example.test", headers={"a": "b"}, timeout=3)
    for one in (copy.deepcopy(monitor), pickle.loads(pickle.dumps(monitor))):
        assert (one.root, one.headers, one.timeout) == (monitor.root, {"a": "b"}, 3)
    copies = []

    class Copy(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            copies.append((copy.deepcopy(used), pickle.loads(pickle.dumps(used))))

    used = RemoteMonitor(refusing)
    with pytest.warns(RemoteWarning):
        fit(model(), [used, Copy()], 1)
    assert [one.root for one in copies[0]] == [refusing, refusing]


@of_no_framework
def test_a_pickle_sends_to_where_its_original_did_and_alone_holds_the_secret():
    """ADR 0157."""
    token = {"Authorization": "Bearer sesame"}
    with Server() as server:
        root = server.root.replace("//", "//ann:hunterpass@")
        monitor = RemoteMonitor(root, path="/opensesame", headers={"X-Token": "sesame"})
        stored = pickle.dumps(monitor)
        pickle.loads(stored).on_epoch_end(0, {"loss": 0.5})
        plain = RemoteMonitor(server.root, headers=token)
        pickle.loads(pickle.dumps(plain)).on_epoch_end(0, {"loss": 0.5})
    (path, headers, _), (_, others, _) = server.received

    assert (path, headers["X-Token"]) == ("/opensesame", "sesame")
    assert headers["Authorization"].startswith("Basic ")
    assert others["Authorization"] == "Bearer sesame"
    assert b"hunterpass" in stored and b"sesame" in stored
    own = monitor._peakhold_link.participant
    for shown in (repr(monitor), str(vars(monitor)), str(vars(own)), str(monitor.state_dict())):
        assert "hunterpass" not in shown and "sesame" not in shown


# SwapEMAWeights


def _averaging(optimizer=None, **arguments):
    return model(
        optimizer or keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.5), **arguments
    )


def _inner(net):
    return getattr(net.optimizer, "inner_optimizer", net.optimizer)


def _average(net):
    averages = _inner(net)._model_variables_moving_average
    return [np.array(keras.ops.convert_to_numpy(v)) for v in averages]


class Watch(Recorder):
    """Remembers the average of each epoch, too."""

    def __init__(self):
        super().__init__()
        self.averages = {}

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.averages[epoch] = _average(self.model)


def _two_alike(**arguments):
    """Two models that will train the same way."""
    one, other = _averaging(**arguments), _averaging(**arguments)
    other.set_weights(one.get_weights())
    return one, other


def test_validation_sees_the_average_and_training_does_not():
    raw, averaged = _two_alike()
    watch, seen = Watch(), Watch()
    plain = fit(raw, [watch], 3, shuffle=False)
    fitted = fit(averaged, [SwapEMAWeights(), seen], 3, shuffle=False)

    assert fitted.history["loss"] == plain.history["loss"]
    assert all(same(watch.weights[e], seen.weights[e]) for e in range(3))
    assert fitted.history["val_loss"] != plain.history["val_loss"]
    looker = model()
    for epoch in range(3):
        looker.set_weights(watch.averages[epoch])
        assert looker.evaluate(*data(), batch_size=8, verbose=0)[0] == pytest.approx(
            fitted.history["val_loss"][epoch], rel=1e-6
        )


@pytest.mark.parametrize(
    ("swap_on_epoch", "end"),
    [
        (False, "last epoch"), (True, "early stop"), (False, "a user's callback stops"),
        *(pytest.param(*one, marks=of_no_framework)
          for one in [(True, "last epoch"), (False, "early stop"), (True, "a user's callback stops")]),
    ],
)  # fmt: skip
def test_the_model_ends_with_the_average_however_training_ends(swap_on_epoch, end):
    net, reference = _two_alike()
    stops = [EarlyStopping("val_loss", patience=1)] if end == "early stop" else []
    late = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(
            net, "stop_training", end == "a user's callback stops" and epoch == 2
        )
    )
    epochs = 3 if end == "last epoch" else 8
    curve = Curve(val_loss=[0.5, 0.1, 0.2, 0.3])
    if stops:
        late = Recorder()
    fitted = fit(net, [curve, SwapEMAWeights(swap_on_epoch), *stops, late], epochs, shuffle=False)
    watch = Watch()
    fit(reference, [watch], 3, shuffle=False)

    assert len(fitted.epoch) == 3
    assert same(net.get_weights(), watch.averages[2])
    assert same(_average(net), watch.averages[2])


def test_on_epoch_our_callbacks_see_the_average_wherever_they_stand(tmp_path):
    net, reference = _two_alike()
    swap, watch, inside = SwapEMAWeights(swap_on_epoch=True), Watch(), Watch()
    saver = ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True)
    begins = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: begins.append(net.get_weights())
    )
    fit(net, [saver, swap, inside, note], 3, shuffle=False)
    fit(reference, [watch], 3, shuffle=False)

    for epoch in range(3):
        assert same(saved_weights(tmp_path / f"{epoch + 1}.weights.h5"), watch.averages[epoch])
        assert same(inside.weights[epoch], watch.averages[epoch])
        assert same(inside.averages[epoch], watch.averages[epoch])
    assert same(begins[1], watch.weights[0])  # and training goes on from the raw weights
    assert same(begins[2], watch.weights[1])


@pytest.mark.parametrize("swap_on_epoch", [False, True])
def test_restored_is_the_average_of_the_best_epoch(swap_on_epoch):
    net, reference = _two_alike()
    stopper = EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    curve = Curve(val_loss=[0.5, 0.1, 0.2, 0.3, 0.0])
    fit(net, [curve, stopper, SwapEMAWeights(swap_on_epoch)], 8, shuffle=False)
    watch = Watch()
    fit(reference, [watch], 4, shuffle=False)

    assert stopper.best_epoch == 1
    assert same(net.get_weights(), watch.averages[1])


@pytest.mark.parametrize("swap_on_epoch", [False, True])
def test_after_fit_evaluate_predict_and_another_fit(swap_on_epoch):
    """On JAX, buffers that two variables shared would be gone after the first evaluation."""
    net, swap = _averaging(), SwapEMAWeights(swap_on_epoch)
    x, y = data()
    fit(net, [swap], 2)
    after = net.get_weights()
    plain = net.evaluate(x, y, verbose=0), net.predict(x, verbose=0)
    for _ in range(2):
        assert net.evaluate(x, y, verbose=0, callbacks=[swap]) == plain[0]
        assert np.array_equal(net.predict(x, verbose=0, callbacks=[swap]), plain[1])
        assert same(net.get_weights(), after)
    watch = Watch()
    fit(net, [swap, watch], 2)

    assert same(net.get_weights(), watch.averages[1])


def test_evaluate_and_predict_use_the_average_and_put_the_raw_weights_back():
    net, x = _averaging(), data()[0]
    for _ in range(3):
        net.train_on_batch(*data())
    raw, average, swap = net.get_weights(), _average(net), SwapEMAWeights()
    looker = model()
    looker.set_weights(average)

    assert np.allclose(
        net.predict(x, verbose=0, callbacks=[swap]), looker.predict(x, verbose=0), rtol=1e-6
    )
    assert same(net.get_weights(), raw)
    assert net.evaluate(*data(), verbose=0, callbacks=[swap])[0] == pytest.approx(
        looker.evaluate(*data(), verbose=0)[0], rel=1e-6
    )
    assert same(net.get_weights(), raw)
    assert same(_average(net), average)


def test_after_fit_it_looks_at_another_models_average():
    net, other = _averaging(), _averaging()
    for _ in range(3):
        other.train_on_batch(*data())
    swap, x = SwapEMAWeights(), data()[0]
    raw, looker = other.get_weights(), model()
    looker.set_weights(_average(other))
    fit(net, [swap], 1)
    kept = net.get_weights()

    assert np.allclose(
        other.predict(x, verbose=0, callbacks=[swap]), looker.predict(x, verbose=0), rtol=1e-6
    )
    assert other.evaluate(*data(), verbose=0, callbacks=[swap])[0] == pytest.approx(
        looker.evaluate(*data(), verbose=0)[0], rel=1e-6
    )
    assert same(other.get_weights(), raw) and same(net.get_weights(), kept)


def test_a_model_that_was_never_trained_has_no_average():
    net, swap = _averaging(), SwapEMAWeights()
    net.optimizer.build(net.trainable_variables)  # all zeros: Keras would predict with them
    x = data()[0]

    assert np.array_equal(net.predict(x, verbose=0, callbacks=[swap]), net.predict(x, verbose=0))


def test_an_evaluation_that_fails_costs_no_weights():
    class Break(keras.callbacks.Callback):
        broken = False

        def on_test_batch_begin(self, batch, logs=None):
            if not self.broken:
                self.broken = True
                raise RuntimeError("broken")

    net, reference = _two_alike()
    swap, breaker, watch, other = SwapEMAWeights(), Break(), Watch(), Watch()
    with pytest.raises(RuntimeError, match="broken"):
        fit(net, [swap, breaker], 2, shuffle=False)
    kept = _average(net)
    fit(reference, [other], 1, shuffle=False)
    assert same(kept, other.averages[0])
    begins = []
    note = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: begins.append(net.get_weights())
    )
    fit(net, [swap, note, watch], 1, shuffle=False)

    assert same(begins[0], other.weights[0])


def test_a_loss_scale_optimizer_is_looked_into():
    inner = keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.5)
    net = _averaging(keras.optimizers.LossScaleOptimizer(inner))
    watch = Watch()
    fit(net, [SwapEMAWeights(swap_on_epoch=True), EarlyStopping("val_loss"), watch], 3)

    assert same(net.get_weights(), watch.averages[max(watch.averages)])


def test_several_optimizers_of_which_one_averages():
    optimizer = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(
            keras.optimizers.SGD(0.05),
            {".*kernel": keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.5)},
        )
    )
    net, raw = model(optimizer), {}
    weights = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: raw.setdefault(epoch, net.get_weights())
    )
    seen = Recorder()
    fit(net, [SwapEMAWeights(swap_on_epoch=True), weights, seen], 3)

    kernel, bias = 0, 1
    assert np.array_equal(seen.weights[0][bias], raw[1][bias])
    assert not np.array_equal(seen.weights[0][kernel], raw[1][kernel])


@of_no_framework
@pytest.mark.parametrize("run", ["fit", "evaluate", "predict"])
def test_without_an_average_it_says_so_before_the_first_batch(run):
    net, batches = model(), []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: batches.append(batch)
    )
    x, y = data()
    with pytest.raises(
        ValueError, match="SwapEMAWeights must be used when `use_ema=True`"
    ) as error:
        if run == "predict":
            net.predict(x, callbacks=[SwapEMAWeights()], verbose=0)
        else:
            getattr(net, run)(x, y, callbacks=[watch, SwapEMAWeights()], verbose=0)

    assert str(error.value).startswith("expected an optimizer with use_ema=True")
    assert "got use_ema=False" in str(error.value)
    assert batches == []


def test_what_is_committed_for_a_resume_is_raw(tmp_path):
    """While one of ours commits, the model holds what training goes on from."""
    seen = {}

    class Committing(Keeper):
        def commit(self, moment, logs):
            seen[moment.at.epoch] = self.run.model.get_weights()

    class Commits(Participating, KerasCallback):
        def __init__(self):
            super().__init__(Committing())

    net, reference = _two_alike()
    inside, watch = Watch(), Watch()
    fit(net, [SwapEMAWeights(swap_on_epoch=True), inside, Commits()], 3, shuffle=False)
    fit(reference, [watch], 3, shuffle=False)

    assert all(same(seen[epoch], watch.weights[epoch]) for epoch in range(3))
    assert all(same(inside.weights[epoch], watch.averages[epoch]) for epoch in range(3))
    assert same(net.get_weights(), watch.averages[2])


class Crash(keras.callbacks.Callback):
    """Raises in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch, self.running = epoch, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.running = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.running, batch) == (self.epoch, 1):
            raise ZeroDivisionError


@pytest.mark.parametrize(
    ("swap_on_epoch", "order"),
    [
        (False, 1), (True, -1),
        *(pytest.param(*one, marks=of_no_framework) for one in [(True, 1), (False, -1)]),
    ],
)  # fmt: skip
def test_an_interrupted_run_ends_as_one_that_was_not(swap_on_epoch, order, tmp_path):
    def start(folder, *also):
        keras.utils.set_random_seed(1)
        net, stopper = _averaging(), EarlyStopping("loss", mode="max", patience=9)
        stopper.restore_best_weights = swap_on_epoch
        own = [SwapEMAWeights(swap_on_epoch), BackupAndRestore(folder / "backup"), stopper]
        fitted = fit(net, [*own[::order], *also], 6)
        return net.get_weights(), _average(net), fitted.history, fitted.epoch

    whole = start(tmp_path / "whole")
    for epoch in (2, 5):
        with pytest.raises(ZeroDivisionError):
            start(tmp_path / f"{epoch}", Crash(epoch))
        weights, average, history, epochs = start(tmp_path / f"{epoch}")

        assert same(weights, whole[0])
        assert same(average, whole[1])
        assert (history, epochs) == whole[2:]


@of_no_framework
def test_a_swapping_callback_can_be_copied_and_leaves_the_weights_behind():
    copies = []

    class Copy(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            copies.append((copy.deepcopy(swap), pickle.loads(pickle.dumps(swap))))

    swap = SwapEMAWeights(swap_on_epoch=True)
    fit(_averaging(), [swap, Copy()], 1)

    assert all(
        one.swap_on_epoch and one._peakhold_link.participant._aside is None for one in copies[0]
    )
