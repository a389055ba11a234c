"""Alerts in loops by hand."""

import pytest

from alert_behaviours import AlertBehaviours
from loops.test_plain_loop import PlainRig
from loops.test_torch_loop import TorchRig


class TestAlertsInAPlainLoop(AlertBehaviours):
    @pytest.fixture
    def rig(self):
        rig = PlainRig()
        rig.users = lambda *callbacks: callbacks
        rig.raised_at = "in epoch 2"
        return rig


class TestAlertsInATorchLoop(AlertBehaviours):
    @pytest.fixture
    def rig(self):
        rig = TorchRig()
        rig.users = lambda *callbacks: callbacks
        rig.raised_at = "in epoch 2"
        return rig
