"""A backup holds what a `state_dict` said when it was asked, whatever becomes of it afterwards."""

import threading

import numpy as np
import pytest
import torch

import peakhold
from changing_states import Changing, comparable, newest
from peakhold.errors import InvalidArgumentError


class Member(Changing, peakhold.Callback):
    pass


def start(folder, *members):
    net = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    backup = peakhold.BackupAndRestore(folder / "backup")
    callbacks = peakhold.CallbackList(
        [*members, backup], net, optimizer=optimizer, epochs=9, verbose=0
    )
    callbacks.on_train_begin()
    return callbacks


def test_the_backup_holds_the_moment_at_which_it_was_asked(tmp_path, hold):
    member = Member()
    callbacks = start(tmp_path, member)
    for epoch in range(2):
        callbacks.on_epoch_begin(epoch)
        if epoch == 1:
            hold.close()
        callbacks.on_epoch_end(epoch, {"loss": 0.5})
    member.change(77)  # nothing of the second backup is written yet
    member.state["later"] = np.ones(3)
    hold.open()
    state = newest(tmp_path / "backup")["callbacks"][f"{__name__}.Member"]

    assert comparable(state) == comparable(member.asked[-1])
    assert state["counts"]["epochs"] == 2
    assert state["shared"][0] is state["shared"][1]["again"]  # written once, as ever


def test_a_state_that_changes_while_it_is_written_never_fails_its_checksum(tmp_path):
    class Large(peakhold.Callback):
        def __init__(self):
            super().__init__()
            self.array = np.zeros(1 << 20)

        def state_dict(self):
            return {"array": self.array, "tensor": torch.from_numpy(self.array)[1:]}

        def load_state_dict(self, state):
            pass

    member, over = Large(), threading.Event()

    def change():
        while not over.is_set():
            member.array += 1

    changing = threading.Thread(target=change)
    callbacks = start(tmp_path, member)
    changing.start()
    try:
        for epoch in range(4):
            callbacks.on_epoch_begin(epoch)
            callbacks.on_epoch_end(epoch, {"loss": 0.5})
            newest(tmp_path / "backup")
    finally:
        over.set()
        changing.join()


def test_two_callbacks_may_fill_one_buffer(tmp_path):
    buffer = np.zeros(3)

    class Fills(peakhold.Callback):
        def __init__(self, number):
            super().__init__()
            self.number = number

        def state_dict(self):
            buffer[:] = self.number
            return {"buffer": buffer}

        def load_state_dict(self, state):
            pass

    callbacks = start(tmp_path, Fills(1), Fills(2))
    callbacks.on_epoch_begin(0)
    callbacks.on_epoch_end(0, {"loss": 0.5})
    states = newest(tmp_path / "backup")["callbacks"].values()

    assert [state["buffer"].tolist() for state in states] == [[1, 1, 1], [2, 2, 2]]


def test_an_array_in_the_logs_may_change_afterwards(tmp_path, hold):
    matrix = np.zeros((2, 2))
    callbacks = start(tmp_path)
    for epoch in range(2):
        matrix += 1
        callbacks.on_epoch_begin(epoch)
        if epoch == 1:
            hold.close()
        callbacks.on_epoch_end(epoch, {"loss": 0.5, "matrix": matrix})
    matrix += 10
    hold.open()
    passed = newest(tmp_path / "backup")["passed"]["metrics"]

    assert passed["matrix"][-1].tolist() == [[2, 2], [2, 2]]


@pytest.mark.parametrize("what", ["circle", "object"])
def test_what_cannot_be_saved_is_named(tmp_path, what):
    class Bad(peakhold.Callback):
        def state_dict(self):
            circle = []
            circle += [circle, circle]
            return {"bad": {"circle": circle, "object": object()}[what]}

        def load_state_dict(self, state):
            pass

    callbacks = start(tmp_path, Bad())
    callbacks.on_epoch_begin(0)
    with pytest.raises(InvalidArgumentError, match="Bad/bad") as caught:
        callbacks.on_epoch_end(0, {"loss": 0.5})
    assert caught.value.__notes__ == ["A state_dict holds something that cannot be saved."]
