"""What callbacks look like when they are printed."""

import pytest

import peakhold
import peakhold.keras as pk


@pytest.mark.parametrize("module", [peakhold, pk])
def test_a_callback_is_printed_as_it_was_written(module):
    written = [
        "EarlyStopping(monitor='loss', patience=3)",
        "TensorBoard()",
        "TensorBoard(log_dir='here', histogram_freq=1)",
        "ReduceLROnPlateau()",
        "CSVLogger(filename='log.csv')",
        "BackupAndRestore(backup_dir='backup')",
    ]

    names = {name: getattr(module, name) for name in module.__all__}
    assert [repr(eval(text, dict(names))) for text in written] == written


def test_what_may_be_a_password_is_not_printed():
    monitor = pk.RemoteMonitor("http://me:word@localhost:9000", headers={"Key": "T0"}, field="x")

    assert repr(monitor) == "RemoteMonitor(field='x')"


def test_a_half_made_callback_can_be_printed():
    class Mine(pk.EarlyStopping):
        def __init__(self, shown, *args, **kwargs):
            self.shown = shown
            super().__init__(*args, **kwargs)

        @property
        def shown(self):
            raise RuntimeError

        @shown.setter
        def shown(self, value):
            self.later = value

    assert repr(Mine("x", patience=3)) == "Mine()"
    assert repr(object.__new__(pk.ModelCheckpoint)).startswith("ModelCheckpoint(")
