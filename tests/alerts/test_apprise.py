"""Any service, through the real Apprise: what is sent, what is withheld, what is waited for."""

import importlib.util
import io
import logging
import subprocess
import sys
import threading

import pytest

import peakhold
from fake_slack import SECRET, FakeSlack, unused_port
from peakhold.alerts import AppriseSender, Outcome
from peakhold.errors import ExtraMissingError, InvalidArgumentError

PARTS = [SECRET, *SECRET.split("/")]
installed = pytest.mark.skipif(
    importlib.util.find_spec("apprise") is None,
    reason="Apprise is not installed (peakhold[alerts])",
)


def url_of(slack):
    """A service of Apprise's that posts JSON over HTTP."""
    return f"json://me:B1Secret88@127.0.0.1:{slack.port}/{SECRET}"


@pytest.fixture
def log():
    """All that every library logs, at the lowest level."""
    text, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(text), root.level
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s %(args)s"))
    root.addHandler(handler)
    root.setLevel(1)
    others = [logging.getLogger(name) for name in ("apprise", "urllib3", "requests")]
    for one in others:
        one.setLevel(1)
    yield text
    root.removeHandler(handler)
    root.setLevel(level)
    for one in others:
        one.setLevel(logging.NOTSET)


@installed
def test_a_message_arrives():
    with FakeSlack() as slack:
        assert AppriseSender(url_of(slack)).send("loss <0.5>\nand more", 30.0) == Outcome(True)

    assert slack.texts == ["loss <0.5>\nand more"]


@installed
def test_a_refusal_may_be_tried_again():
    with FakeSlack(500) as slack:
        sender = AppriseSender(url_of(slack))

        assert sender.send("a", 30.0) == Outcome(False, "the service did not take it", retry=True)
        assert sender.send("a", 30.0) == Outcome(True)


@installed
def test_a_late_success_is_not_sent_twice():
    with FakeSlack("hang") as slack:
        sender = AppriseSender(url_of(slack))
        first = sender.send("a", 0.2)
        slack.script.append(200)
        again = sender.send("a", 0.2)
        slack.ended.set()
        last = sender.send("a", 30.0)

    assert first == again == Outcome(False, "no answer within 0.2 s", retry=True)
    assert last.reason == "the service did not take it"
    assert slack.texts == ["a"], "one request was under way all the time"


@installed
def test_no_log_shows_the_secret_and_other_logs_go_on(log):
    with FakeSlack(200, 500, "cut") as slack:
        sender = AppriseSender(url_of(slack))
        for _ in range(3):
            sender.send("a", 30.0)
        logging.getLogger("mine").warning("of mine: %s", 1)
    dead = AppriseSender(f"json://127.0.0.1:{unused_port()}/{SECRET}")
    dead.send("a", 30.0)
    said = log.getvalue()

    assert "withheld while an alert is sent" in said
    assert "mine WARNING of mine: 1" in said
    assert not any(part in said for part in PARTS)


@installed
def test_the_search_for_the_secret_can_fail(log):
    import apprise

    with FakeSlack() as slack:
        service = apprise.Apprise()
        service.add(url_of(slack))
        service.notify(body="a")

    assert any(part in log.getvalue() for part in PARTS), "Apprise or urllib3 logs the path"


@installed
@pytest.mark.parametrize("url", [f"nosuch://{SECRET}", SECRET, f"json://[{SECRET}", "", "json://"])
def test_what_apprise_does_not_know_is_refused_and_not_shown(url, log):
    with pytest.raises(InvalidArgumentError) as caught:
        AppriseSender(url)

    error = caught.value
    shown = f"{error} {error!r} {vars(error)} {log.getvalue()}"
    assert "a URL of a service that Apprise knows, got url=***" in shown
    assert not any(part in shown for part in PARTS)
    assert error.__context__ is None


@installed
def test_the_callback(monkeypatch):
    with FakeSlack() as slack:
        monkeypatch.setenv("PEAKHOLD_ALERT_URL", url_of(slack))
        alert = peakhold.Alert(when="loss < 0.5", on="stop", min_interval_s=0)
        callbacks = peakhold.CallbackList([alert], verbose=0)
        callbacks.on_train_begin()
        for epoch, loss in enumerate((0.6, 0.4, 0.3)):
            callbacks.on_epoch_begin(epoch)
            callbacks.on_epoch_end(epoch, {"loss": loss})
        callbacks.on_train_end()
        assert alert.flush(60)

    assert repr(alert) == "Alert(json, when='loss < 0.5', on=('stop',))"
    assert [text.partition("] ")[2].partition("\n")[0] for text in slack.taken] == [
        "epoch 2: loss < 0.5", "training ended after epoch 3: the loop ended",
    ]  # fmt: skip
    participant = alert._peakhold_link.participant
    shown = f"{vars(alert)} {vars(participant)} {vars(participant.outbox)}"
    assert not any(part in shown for part in PARTS)


@installed
def test_apprise_is_loaded_only_for_those_who_use_it():
    code = (
        "import sys, peakhold\n"
        "peakhold.SlackAlert('https://hooks.slack.com/x')\n"
        "print({'apprise', 'requests', 'urllib3'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"


def test_without_apprise_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExtraMissingError, match=r"pip install 'peakhold\[alerts\]'") as caught:
        peakhold.Alert(f"json://localhost/{SECRET}")

    assert caught.value.package == "apprise"
    assert isinstance(caught.value, ImportError)


@installed
def test_threads_end():
    with FakeSlack() as slack:
        AppriseSender(url_of(slack)).send("a", 30.0)

    assert [t for t in threading.enumerate() if t.name == "peakhold-apprise"] == []
