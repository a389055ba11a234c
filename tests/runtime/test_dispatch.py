"""Who acts when a callback of ours is called: no run, no framework."""

import pytest

import peakhold
from peakhold._core.observation import Event
from peakhold.extend import Participant, Participating
from peakhold.runtime.dispatch import Dispatch


class Ours(Participating):
    def __init__(self):
        super().__init__(Participant())


class Users(peakhold.Callback):
    pass


class Overriding(Ours):
    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)


def test_neighbours_act_together_and_the_first_acts_for_all():
    a, b = Ours(), Ours()
    dispatch = Dispatch([a, b])

    assert dispatch.segment_of(a) == dispatch.segment_of(b) == [a, b]
    assert dispatch.arrive(b, Event.EPOCH_END)
    assert not dispatch.arrive(a, Event.EPOCH_END)


def test_a_callback_that_is_called_again_begins_the_event_anew():
    a, b = Ours(), Ours()
    dispatch = Dispatch([a, b])

    calls = [dispatch.arrive(one, Event.EPOCH_END) for one in (a, b, a, b, b, a)]

    assert calls == [True, False, True, False, True, False]
    assert dispatch.arrive(a, Event.EPOCH_BEGIN)


@pytest.mark.parametrize("between", [Users, Overriding])
def test_across_a_user_s_hook_order_means_what_it_means_in_keras(between):
    a, user, b = Ours(), between(), Ours()
    dispatch = Dispatch([a, user, b])

    assert dispatch.segment_of(a) == [a] and dispatch.segment_of(b) == [b]
    assert dispatch.has_user_callbacks
    assert dispatch.user_callbacks_follow(a) and not dispatch.user_callbacks_follow(b)


def test_a_hook_that_is_set_on_the_object_is_a_user_s_too():
    a, b = Ours(), Ours()
    a.on_epoch_end = lambda epoch, logs=None: None

    assert Dispatch([a, b]).segment_of(b) == [b]
