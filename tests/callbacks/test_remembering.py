"""Which callbacks of users a resume would lose something of: those that may remember something."""

import pytest

from peakhold import Callback
from peakhold.runtime.remembering import may_remember


class Prints(Callback):
    def on_epoch_end(self, epoch, logs=None):
        print(epoch)


class Every(Callback):
    def __init__(self, n, names=("loss",), how=print):
        super().__init__()
        self.n, self.names, self.how = n, names, how

    def on_epoch_end(self, epoch, logs=None):
        if epoch % self.n == 0:
            self.model.stop_training = True


class EveryOther(Every):
    """A subclass that adds nothing."""


class Counts(Callback):
    def __init__(self):
        super().__init__()
        self.n = 0

    def on_epoch_end(self, epoch, logs=None):
        self.n += 1


class CountsBelow(Counts):
    """It is the class below that remembers."""


class BeginsInARun(Callback):
    def on_train_begin(self, logs=None):
        self.n = 0


class Collects(Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(epoch)


class HoldsAList(Every):
    def __init__(self):
        super().__init__(2, names=([],))


@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        (Prints(), False), (Every(2), False), (EveryOther(2), False), (Counts(), True),
        (CountsBelow(), True), (BeginsInARun(), True), (Collects(), True), (HoldsAList(), True),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Callback) else "",
)  # fmt: skip
def test_who_may_remember_something(callback, expected):
    assert may_remember(callback, Callback) is expected
