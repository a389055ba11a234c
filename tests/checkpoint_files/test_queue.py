"""Saves under way."""

import copy
import os
import pickle

import numpy as np
import pytest

from checkpoint_files.organs import Model
from peakhold.checkpoint_files.queue import SaveQueue, wait_for_saves_to


class Saver:
    def __init__(self, folder, template="w_{epoch}.safetensors"):
        self.model, self.queue = Model(folder, template), SaveQueue("ModelCheckpoint")

    def begin(self, epoch, value=None, **more):
        request = self.model.request(epoch, value, **more)
        plan = self.model.host.plan_file(".safetensors")
        self.model.pool.is_stale = True
        held = self.model.pool.take(plan.parts)
        self.queue.begin(self.model.folder, request, plan, held)
        return request

    def news(self, **asked):
        return [(one.request.saved.epoch, one.committed) for one in self.queue.news(**asked)]


def test_what_became_of_each_is_told_once_and_in_order(tmp_path, hold):
    saver = Saver(tmp_path)
    hold.close()
    for epoch in range(2):
        saver.begin(epoch, 1.0 / (epoch + 1))
    assert (saver.news(), saver.queue.value) == ([], 0.5)
    assert not saver.queue.wait(0)
    hold.open()
    assert saver.queue.wait()
    assert saver.news() == [(0, True), (1, True)]
    assert (saver.news(), saver.queue.value) == ([], None)


def test_the_newest_is_taken_back_if_it_has_not_begun(tmp_path, hold):
    saver = Saver(tmp_path, "best.safetensors")
    hold.close()
    saver.begin(0, 0.5)
    assert saver.queue.waiting is None, "the first one may have begun"
    second = saver.begin(1, 0.4)
    assert saver.queue.waiting == second.path
    assert saver.queue.replace_waiting() is second
    hold.open()
    saver.queue.wait()
    assert saver.news() == [(0, True)]
    assert saver.queue.refused is None, "the disk has not refused what was taken back"


def test_a_bad_state_is_told_before_its_turn_comes(tmp_path, hold):
    saver = Saver(tmp_path)
    hold.close()
    saver.begin(0, 0.5)
    saver.model.weights["w"][3] = np.nan
    saver.begin(1, 0.4)
    assert saver.news(looks=True) == [(1, False)]
    hold.open()
    saver.queue.wait()
    assert saver.news() == [(0, True)]
    assert os.listdir(tmp_path).count("w_1.safetensors") == 0


def test_a_best_state_that_the_disk_refused_is_tried_once_more(tmp_path):
    saver = Saver(tmp_path)
    obstacle = tmp_path / "w_0.safetensors"
    obstacle.mkdir()
    request = saver.begin(0, 0.5)
    saver.queue.wait()
    assert saver.news() == [(0, False)]
    assert saver.queue.refused is request
    obstacle.rmdir()
    saver.queue.try_again()
    saver.queue.wait()
    assert saver.news() == [(0, True)]
    assert saver.queue.refused is None


@pytest.mark.parametrize("value", [None, 0.5])
def test_only_a_best_state_is_kept_for_that_and_only_once(tmp_path, value):
    saver = Saver(tmp_path)
    (tmp_path / "w_0.safetensors").mkdir()
    saver.begin(0, value)
    for _ in range(2):
        saver.queue.wait()
        saver.news()
        saver.queue.try_again()
    saver.queue.wait()
    assert saver.news() == []
    assert saver.queue.refused is None


def test_there_is_room_when_fewer_are_under_way(tmp_path, hold):
    saver = Saver(tmp_path)
    hold.close()
    saver.begin(0)
    saver.queue.wait_for_room(2)  # returns at once: one of two places is free
    hold.open()
    saver.queue.wait_for_room(1)
    assert saver.news() == [(0, True)]


def test_somebody_else_can_wait_for_what_goes_to_a_template(tmp_path, hold):
    saver = Saver(tmp_path)
    hold.close()
    saver.begin(0)
    wait_for_saves_to(str(tmp_path / "another.safetensors"))
    hold.open()
    wait_for_saves_to(saver.model.template)
    assert os.path.exists(tmp_path / "w_0.safetensors")
    saver.news()


def test_a_copy_has_no_saves_of_its_own(tmp_path, hold):
    saver = Saver(tmp_path)
    hold.close()
    saver.begin(0, 0.5)
    for other in (copy.deepcopy(saver.queue), pickle.loads(pickle.dumps(saver.queue))):
        assert (other.value, other.refused, list(other.news())) == (None, None, [])
    hold.open()
    saver.queue.wait()
