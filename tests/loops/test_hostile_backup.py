"""A backup that is whole and not ours ends in an error that names it, before anything trains."""

import shutil

import numpy as np
import pytest
import torch

import peakhold
from peakhold.errors import CheckpointDamagedError, PeakholdError
from peakhold.store import Store, drain

MISSING = object()
DEEP = None
for _ in range(150):
    DEEP = [DEEP]
EPOCHS = 3


def train(folder, crash_at=None):
    """A loop with a callback of each kind that has a state."""
    torch.manual_seed(0)
    net = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    backup = peakhold.BackupAndRestore(folder / "backup")
    callbacks = peakhold.CallbackList(
        [
            backup,
            peakhold.EarlyStopping("loss", patience=5, restore_best_weights=True),
            peakhold.ModelCheckpoint(folder / "{epoch}-{run_id}.safetensors", monitor="loss"),
            peakhold.ReduceLROnPlateau("loss", patience=1),
            peakhold.CSVLogger(folder / "log.csv", append=True),
        ],
        net, optimizer=optimizer, epochs=EPOCHS, verbose=0,
    )  # fmt: skip
    callbacks.on_train_begin()
    for epoch in range(backup.initial_epoch, EPOCHS):
        callbacks.on_epoch_begin(epoch)
        if epoch == crash_at:
            raise ZeroDivisionError
        loss = net(torch.ones(4, 2)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        callbacks.on_epoch_end(epoch, {"loss": float(loss)})
    callbacks.on_train_end()


def rewritten(folder, change):
    """A folder with the backups of an interrupted run, and another in front of them."""
    with pytest.raises(ZeroDivisionError):
        train(folder / "killed", crash_at=2)
    drain()
    again = folder / "again"
    shutil.copytree(folder / "killed", again)  # that one's is owned by this process
    with Store(again / "backup") as store:
        checkpoint = store.load("latest")
        parts = dict(checkpoint.parts)
        parts["train_state"] = change(dict(parts["train_state"]))
        refers_to = [entry.step for entry in store.list()]
        store.save(checkpoint.entry.step + 1, parts, epoch=2, refers_to=refers_to)
    return again


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


FIELDS = {
    "format": (MISSING, 0, 3, 1.0, True, "1", DEEP),
    "begins": (MISSING, 1, "no"),
    "epoch": (MISSING, -1, 1.5, True, "2", 2**70),
    "batch": ("0", -1, DEEP),
    "stopped": (MISSING, "early", [3], {"a": 1}),
    "run_id": (MISSING, "../../owned", "", 7, "ABCDEF01", "0" * 4000),
    "timestamp": (MISSING, "../..", 20260101, ""),
    "names": (MISSING, [], {"weights": "w"}, {"weights": [1]}),
    "more": (MISSING, [], {"rates": 3}, {"rates": {"": "fast"}}),
    "random": (MISSING, {}, {"python": {}}, {"python": {"version": 3, "words": [1], "gauss": 0.0}}),
    "callbacks": (MISSING, [], {"EarlyStopping(loss)": 3}),
    "held": ([], {"EarlyStopping(loss)": {"best": {"weights": [0]}}},
             {"EarlyStopping(loss)": {"best": {"weights": [-1, "weights"]}}},
             {"EarlyStopping(loss)": {"best": 3}}),
    "passed": ([], {"epochs": [0], "metrics": {}}, {"epochs": np.zeros(1)}, DEEP,
               *({"epochs": np.zeros(1, int), "metrics": {"loss": bad}} for bad in (
                   {"lines": 10**13}, {"lines": [1]}, {}, {"lines": np.frombuffer(b"[", "u1")}, 3,
                   {"lines": np.frombuffer(b'{"$tensor":"a"}', "u1")}))),
}  # fmt: skip
CASES = [(name, bad) for name, values in FIELDS.items() for bad in values]


@pytest.mark.parametrize(("name", "bad"), CASES, ids=lambda one: str(one)[:24])
def test_a_field_that_is_not_as_we_write_it_is_refused_by_name(tmp_path, name, bad):
    again = rewritten(tmp_path, lambda s: without(s, name) if bad is MISSING else {**s, name: bad})
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(CheckpointDamagedError) as caught:
        train(again)

    assert "backup" in str(caught.value) and "\nHint: " in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


STATES = ["EarlyStopping(loss)", "ReduceLROnPlateau(loss)", "ModelCheckpoint(", "CSVLogger("]
CHANGES = {
    "empty": lambda state: {},
    "without its state": lambda state: without(without(state, "state"), "rows"),
    "of another class": lambda state: {**state, "class": "Another"},
    "a number too many": lambda state: {**state, "state": {"unknown": 3}, "rows": "many"},
    "a tree": lambda state: {**state, "state": DEEP, "rows": DEEP, "history": DEEP},
    "huge": lambda state: {**state, "state": {"best": 10**400, "wait": 10**400}, "rows": 10**400},
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("whose", STATES)
def test_a_state_that_its_callback_cannot_use_is_no_bare_error(tmp_path, whose, change):
    def changed(state):
        states = dict(state["callbacks"])
        (name,) = [name for name in states if name.startswith(whose)]
        return {**state, "callbacks": {**states, name: CHANGES[change](states[name])}}

    again = rewritten(tmp_path, changed)
    try:
        train(again)
    except PeakholdError as error:
        assert "\nHint: " in str(error)  # noqa: PT017 - some of them are of use


def test_what_a_user_s_callback_raises_stays_the_user_s(tmp_path):
    class Counts(peakhold.Callback):
        def state_dict(self):
            return {"n": 1}

        def load_state_dict(self, state):
            raise KeyError("mine")

    def run(crash):
        callbacks = peakhold.CallbackList(
            [peakhold.BackupAndRestore(tmp_path / "backup"), Counts()],
            torch.nn.Linear(1, 1),
            verbose=0,
        )
        callbacks.on_train_begin()
        callbacks.on_epoch_begin(0 if crash else 1)
        callbacks.on_epoch_end(0, {"loss": 1.0})
        callbacks.on_epoch_begin(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(crash=True)
    with pytest.raises(KeyError, match="mine"):
        run(crash=False)
