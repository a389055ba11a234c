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


class TestAlertsInALoopThatCountsFrom1(AlertBehaviours):
    """The same words: epochs have the same numbers for people."""

    # Functions in them count from 0 as these hooks do not.
    test_a_function_counts_epochs_from_0_as_hooks_do = None
    test_a_function_sees_what_callbacks_log_wherever_they_stand = None
    test_a_condition_may_look_at_a_rate_that_nobody_logs = None

    @pytest.fixture
    def rig(self):
        rig = PlainRig()
        rig.users = lambda *callbacks: callbacks
        rig.raised_at = "in epoch 2"
        rig.first_epoch = 1
        return rig
