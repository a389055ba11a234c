"""The webhook is searched for in every file and every line of runs in which everything goes wrong."""

import os
import subprocess
import sys

import pytest

from fake_slack import SECRET, FakeSlack, unused_port

PARTS = [SECRET, *SECRET.split("/"), "hunterpass", "sesame"]
"""Of webhooks as Slack makes them, and of addresses of plain words."""

PROGRAM = """
import copy, faulthandler, json, logging, os, pickle, sys, traceback, warnings
import numpy as np
import peakhold

faulthandler.enable()
logging.basicConfig(level=1)
warnings.simplefilter("always")

def show(kind, error, trace):
    # What the tools that print variables print, without the environment's own.
    shown = traceback.TracebackException(kind, error, trace, capture_locals=True)
    print("".join(shown.format()), file=sys.stderr)
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        print(repr(error), error.args, vars(error), file=sys.stderr)
        error = error.__cause__ or error.__context__

sys.excepthook = show

def train():
    params = {"w": np.zeros(3)}
    alert = peakhold.SlackAlert(
        when="loss < 0.75", on=("best", "stop", "failure", "resume"), monitor="loss",
        min_interval_s=0, timeout_s=0.3, tries=2, exit_timeout_s=1,
    )
    bad = lambda epoch, logs: logs["nothing"] > os.environ.get("NO_SUCH_VARIABLE")
    odd = peakhold.SlackAlert(when=bad, on="stop", timeout_s=0.3, tries=2, exit_timeout_s=1)
    callbacks = peakhold.CallbackList(
        [alert, odd, peakhold.CSVLogger("run/log.csv"), peakhold.EarlyStopping("loss", patience=9),
         peakhold.ModelCheckpoint("run/{run_id}.safetensors", monitor="loss")],
        host=peakhold.LoopHost(get_state=lambda: params, set_state=params.update), epochs=9,
    )
    callbacks.on_train_begin()
    for epoch in range(5):
        callbacks.on_epoch_begin(epoch)
        callbacks.on_epoch_end(epoch, {"loss": 1.0 - epoch / 10})
        for one in (alert, copy.copy(alert), copy.deepcopy(alert)):
            own = one._peakhold_link.participant
            print(one, [one], vars(one), vars(own), own.outbox and vars(own.outbox))
        with open("run/state.json", "w") as file:
            json.dump(alert.state_dict(), file)
        with open("run/alert.pickle", "wb") as file:
            pickle.dump(alert, file)
        for wrong in ({"when": "a ="}, {"on": "x"}, {"tries": 0}):
            try:
                peakhold.SlackAlert(**wrong)
            except ValueError:
                show(*sys.exc_info())
    if END == "raise":
        raise RuntimeError("in the middle")
    callbacks.on_train_end()

train()
"""


WORDS = """
import copy, os, faulthandler, logging, pickle, sys, traceback, warnings
import numpy as np
import peakhold

faulthandler.enable()
logging.basicConfig(level=1)
warnings.simplefilter("always")

def show(kind, error, trace):
    shown = traceback.TracebackException(kind, error, trace, capture_locals=True)
    print("".join(shown.format()), repr(error), error.args, vars(error), file=sys.stderr)

sys.excepthook = show

def url():
    return os.environ["WORDS"]

def bad(epoch, logs):
    raise RuntimeError("cannot reach " + url() + " as " + url().partition("://")[2][:17])

def train():
    params = {"w": np.zeros(3)}
    callbacks = [
        (peakhold.SlackAlert if url().startswith("http") else peakhold.Alert)(
            url(), when=bad, on=("best", "stop", "failure"), monitor="loss", timeout_s=0.3, tries=1,
            exit_timeout_s=1,
        ),
        peakhold.RemoteMonitor(os.environ["SERVER"], timeout=0.3, headers=dict([os.environ["KEY"].split(":")])),
        peakhold.EarlyStopping("loss", patience=9), peakhold.BackupAndRestore("run/backup"),
        peakhold.CSVLogger("run/log.csv"), peakhold.ModelCheckpoint("run/m.safetensors"),
    ]
    host = peakhold.LoopHost(get_state=lambda: params, set_state=params.update)
    run = peakhold.CallbackList(callbacks, host=host, epochs=9)
    run.on_train_begin()
    for epoch in range(3):
        run.on_epoch_begin(epoch)
        run.on_epoch_end(epoch, {"loss": 1.0 - epoch / 10})
    print(callbacks, [vars(one) for one in callbacks], [one.state_dict() for one in callbacks])
    with open("run/alert.pickle", "wb") as file:
        pickle.dump(callbacks[0], file)
    monitor = callbacks[1]
    for one in (monitor, copy.copy(monitor), copy.deepcopy(monitor), pickle.loads(pickle.dumps(monitor))):
        own = one._peakhold_link.participant
        assert (one.root, one.headers) == (os.environ["SERVER"], monitor.headers)  # it sends there
        print(one, [one], vars(one), own, vars(own))
    warnings.simplefilter("error")
    try:
        copy.copy(monitor).on_epoch_end(0, {"loss": 1.0})
    except Warning:
        show(*sys.exc_info())
    raise RuntimeError("in the middle of " + url())

try:
    train()
except RuntimeError:
    pass
"""


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:9/hunterpass/sesame", "http://127.0.0.1:9/x?token=sesame&user=hunterpass",
        "mailto://ann:hunterpass@example.com?to=sesame@example.com", "tgram://hunterpass/sesame",
        "json://ann:hunterpass@127.0.0.1:9/sesame",
    ],
)  # fmt: skip
def test_an_address_of_plain_words_is_in_no_file_and_no_line(address, tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", WORDS],
        env={
            **os.environ, "WORDS": address, "PYTHONWARNINGS": "always", "KEY": "Key:Bearer sesame",
            "SERVER": "http://ann:hunterpass@127.0.0.1:9/?token=sesame",
        },
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    output = done.stdout + done.stderr

    assert search(tmp_path, output) == []
    if address.startswith(("http", "mailto", "json")):
        assert done.returncode == 0, output[-3000:]
        assert "RemoteWarning: Could not reach" in output, "made an error, with all variables"
        assert "failed at epoch 1 with RuntimeError: cannot reach ***" in output
        assert "Could not reach RemoteMonitor" in output
        assert os.listdir(tmp_path / "run" / "backup")


def search(folder, text):
    """Every place where a part of the secret stands."""
    found = [f"output: {line}" for line in text.splitlines() if any(p in line for p in PARTS)]
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with open(path, "rb") as file:
                content = file.read()
            if any(part.encode() in content or part in path for part in PARTS):
                found.append(path)
    return found


@pytest.mark.parametrize("end", ["on_train_end", "raise"])
@pytest.mark.parametrize(
    "trouble",
    [200, 404, "hang", "cut", "garbage", (429, {"Retry-After": "900"}),
     (302, {"Location": f"https://example.com/{SECRET}"}), "refused", "no webhook"],
    ids=lambda trouble: str(trouble).partition(",")[0],
)  # fmt: skip
def test_no_file_and_no_line_holds_it(trouble, end, tmp_path):
    with FakeSlack(*[trouble] * 99) as slack:
        url = slack.url
        if trouble == "refused":
            url = f"http://127.0.0.1:{unused_port()}/{SECRET}"
        elif trouble == "no webhook":
            url = f"http://hooks.example.com/{SECRET}"
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-c", f"END = {end!r}\n{PROGRAM}"],
            env={**os.environ, "PEAKHOLD_SLACK_WEBHOOK": url, "PYTHONWARNINGS": "always"},
            cwd=tmp_path, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    output = done.stdout + done.stderr

    assert search(tmp_path, output) == []
    if trouble != "no webhook":
        assert (done.returncode != 0) is (end == "raise"), output
        assert {"log.csv", "state.json", "alert.pickle"} <= set(os.listdir(tmp_path / "run"))
    else:
        assert "got webhook=***" in output


def test_the_search_would_find_it(tmp_path):
    (tmp_path / "a").write_text(f"x{PARTS[1]}x")

    assert len(search(tmp_path, f"a\n{PARTS[2]}\n")) == 2
