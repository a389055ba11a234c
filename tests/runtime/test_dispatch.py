"""Who acts when a callback of ours is called: no run, no framework."""

import pytest

import peakhold
from peakhold._core.observation import Event
from peakhold.extend import Participant, Participating
from peakhold.runtime.dispatch import acts_for_all
from peakhold.runtime.segments import Segments


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
    segments = Segments([a, b])

    segment = segments.of(a)

    assert segment is segments.of(b) and segment.callbacks == [a, b]
    assert acts_for_all(segment, b, Event.EPOCH_END)
    assert not acts_for_all(segment, a, Event.EPOCH_END)


def test_a_callback_that_is_called_again_begins_the_event_anew():
    a, b = Ours(), Ours()
    segment = Segments([a, b]).of(a)

    calls = [acts_for_all(segment, one, Event.EPOCH_END) for one in (a, b, a, b, b, a)]

    assert calls == [True, False, True, False, True, False]
    assert acts_for_all(segment, a, Event.EPOCH_BEGIN)


@pytest.mark.parametrize("between", [Users, Overriding])
def test_across_a_user_s_hook_order_means_what_it_means_in_keras(between):
    a, user, b = Ours(), between(), Ours()
    segments = Segments([a, user, b])

    assert segments.of(a).callbacks == [a] and segments.of(b).callbacks == [b]
    assert segments.has_user_callbacks
    assert segments.user_callbacks_follow(a) and not segments.user_callbacks_follow(b)


def test_a_hook_that_is_set_on_the_object_is_a_user_s_too():
    a, b = Ours(), Ours()
    a.on_epoch_end = lambda epoch, logs=None: None

    assert Segments([a, b]).of(b).callbacks == [b]
