"""Alerts in Keras's own `fit`."""

import contextlib
import gc
import importlib.util
import pathlib

import pytest

from alert_behaviours import AlertBehaviours

# `keras.test_fit` would be looked for in Keras itself.
_spec = importlib.util.spec_from_file_location(
    "rig_of_fit", pathlib.Path(__file__).with_name("test_fit.py")
)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

UNKNOWN = "it ended without on_train_end, most likely by an exception"


@pytest.mark.torch_is_enough("the logs of a `fit` are Python's numbers; P12 sends on every backend")
class TestAlertsInFit(AlertBehaviours):
    @pytest.fixture
    def rig(self):
        import peakhold.keras

        rig = _module.FitRig([])
        rig.users = lambda *callbacks: [peakhold.keras.adapt(one) for one in callbacks]
        rig.raised_at = "after epoch 1"
        return rig

    def test_a_backup_carries_what_was_told(self, rig, alert, slack, tmp_path):
        """A crash after the message: new objects, in the same program, go on and do not repeat it."""
        curve = [0.5, 0.3, 0.35, 0.2, 0.1]
        for raise_at in (3, None):
            one = alert("m < 0.4", on=("failure", "resume"), monitor="m", mode="min")
            callbacks = [one, rig.lib.BackupAndRestore(tmp_path / "backup")]
            with contextlib.suppress(ZeroDivisionError):
                rig.run(callbacks, {"m": curve}, 5, raise_at=raise_at)
            rig.rebuild()
            gc.collect()
            assert one.flush(60)

        assert [text.partition("\n") for text in self.said(one, slack)] == [
            ("[run] epoch 2 of 5: m &lt; 0.4", "\n", "m 0.3; best m 0.3 at epoch 2"),
            (f"[run] training failed after epoch 3 of 5: {UNKNOWN}", "\n",
             "m 0.35; best m 0.3 at epoch 2"),
            ("[run] training goes on from epoch 4 of 5", "\n", "m 0.35; best m 0.3 at epoch 2"),
        ]  # fmt: skip
