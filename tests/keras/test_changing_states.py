"""A backup of a `fit` holds what a `state_dict` said when it was asked."""

import pytest

import keras
import peakhold.keras as pk
from changing_states import Changing, comparable, newest
from keras_helpers import data, model


class Member(Changing, keras.callbacks.Callback):
    """Changes everything once more, before anything of the second backup is written."""

    def __init__(self, hold):
        super().__init__()
        self.hold = hold

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if epoch == 1:
            self.hold.close()

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            self.change(77)
            self.hold.open()
            raise ZeroDivisionError


def test_the_backup_holds_the_moment_at_which_it_was_asked(tmp_path, hold):
    member = Member(hold)
    backup = pk.BackupAndRestore(tmp_path)
    net = model()
    x, y = data()

    with pytest.raises(ZeroDivisionError):
        net.fit(x, y, epochs=4, verbose=0, callbacks=[member, backup])
    state = newest(tmp_path)["callbacks"][f"{__name__}.Member"]

    assert comparable(state) == comparable(member.asked[-1])
    assert state["counts"]["epochs"] == 2
