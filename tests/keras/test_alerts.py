"""Alerts in Keras's own `fit`."""

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


class TestAlertsInFit(AlertBehaviours):
    @pytest.fixture
    def rig(self):
        import peakhold.keras

        rig = _module.FitRig()
        rig.users = lambda *callbacks: [peakhold.keras.adapt(one) for one in callbacks]
        rig.raised_at = "after epoch 1"
        return rig
