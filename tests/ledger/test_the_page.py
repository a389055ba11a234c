"""What the page of the format shows is what a run writes, but for times and machines."""

import json
import pathlib
import re
import warnings

import numpy as np
import pytest

import peakhold
from peakhold.extend import listening
from peakhold.files.background import drain
from peakhold.ledger import Heartbeat, Ledger, RunFolder, read_heartbeat, write_run_file
from peakhold.testing import FailingDisk

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "reference" / "run-folder.md"
VOLATILE = {"time", "created", "host", "platform", "python", "versions", "git", "pid", "since", "command",
            "alive_at", "progressed_at", "from"}  # fmt: skip


def shown():
    """The examples of the page, by the words before each."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    return [json.loads(line) for block in blocks for line in _objects(block)]


def _objects(block):
    """One or several objects, each over as many lines as the page has room for."""
    whole, depth, begin = [], 0, 0
    for at, letter in enumerate(block):
        depth += (letter in "{[") - (letter in "}]")
        if letter == "}" and depth == 0:
            whole.append(block[begin : at + 1])
            begin = at + 1
    return whole


def lines_of_a_run(folder):
    """A run of which nothing is left out: two attempts, a decision, a fact, a disk that was full."""
    weights, rate = {"w": np.zeros(2)}, [0.1]
    host = peakhold.LoopHost(
        get_state=lambda: weights, set_state=weights.update,
        get_learning_rate=lambda: rate[0], set_learning_rate=lambda new: rate.__setitem__(0, new),
    )  # fmt: skip
    disk = FailingDisk(0, calls=["write"], forever=True)
    with folder.own():
        write_run_file(folder.path, run_id="7f3a", settings={"monitor": "val_loss", "patience": 1})
        beat = Heartbeat(folder.heartbeat)
        beat.start()
        beat.progressed()
        ledger = Ledger(folder.events, None, disk=disk)
        ledger.append({"kind": "start", "run": "7f3a"})
        made = [
            peakhold.EarlyStopping("val_loss", patience=1),
            peakhold.ModelCheckpoint("best.safetensors", "val_loss", save_best_only=True),
        ]
        run = peakhold.CallbackList(made, host=host, epochs=9, verbose=0)
        offset = None
        with listening(ledger.told):
            run.on_train_begin()
            for epoch in range(9):
                run.on_epoch_begin(epoch)
                logs = {"loss": 0.5, "val_loss": 0.5 if epoch == 0 else float("nan")}
                run.on_epoch_end(epoch, logs)
                drain()  # what was saved is known at the next moment
                offset = offset or ledger.offset
                if run.stop_training:
                    break
            run.on_train_end()
        ledger.close()
        ledger = Ledger(folder.events, offset, disk=disk)
        ledger.go_on(epoch=1)
        disk.at = 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for n in range(5):
                ledger.append({"kind": "note", "text": "x" * 2**20})
        disk.at = 0
        ledger.flush()
        ledger.append({"kind": "end", "reason": "no improvement for 1 epoch (EarlyStopping)"})
        ledger.close()
        beat.close("no improvement for 1 epoch (EarlyStopping)")
    return [json.loads(line) for line in pathlib.Path(folder.events).read_bytes().splitlines()]


def lasting(value):
    """What does not change from run to run."""
    if isinstance(value, dict):
        kept = {key: lasting(one) for key, one in value.items() if key not in VOLATILE}
        if "spent" in kept:
            kept["spent"] = kept["spent"][1:]
        return kept
    return [lasting(one) for one in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    place = tmp_path_factory.mktemp("page")
    folder = RunFolder(place / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        lines = lines_of_a_run(folder)
    return [*lines, read_heartbeat(folder.heartbeat), folder.about()]


def test_every_example_is_what_was_written(written):
    found = [lasting(one) for one in written]

    strange = [example for example in shown() if lasting(example) not in found]

    assert strange == [], json.dumps(strange, indent=1)


def test_every_kind_has_an_example(written):
    assert {one["kind"] for one in written} - {"note"} == {one["kind"] for one in shown()}


def test_every_member_is_told_of(written):
    text = PAGE.read_text(encoding="utf-8")
    members = {key for one in written for key in one} | {"batch", "first_epoch", "defect", "answers",
               "epoch_cut_short", "validated", "validates", "facts", "rank"}  # fmt: skip

    assert [key for key in sorted(members) if f"`{key}`" not in text] == []
