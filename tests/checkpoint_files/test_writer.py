"""A save that was decided, to its end: the facts that are told, and their order."""

import os

import numpy as np
import pytest

from checkpoint_files.organs import Model
from peakhold.checkpoint_files.writer import CheckpointWriter, Placement


class Saver:
    """Carries saves out as a run does; `told` holds the facts in order."""

    def __init__(self, model, *, in_background):
        self.model, self.writer = model, CheckpointWriter("ModelCheckpoint")
        self.writer.placement = Placement(in_background=in_background)
        self.told, self.reasons = [], []

    def save(self, epoch, value=None, **more):
        model, request = self.model, self.model.request(epoch, value, **more)
        model.pool.is_stale = True
        where = (model.host, model.pool, ".safetensors", self.reasons.append)
        plan = self.writer.placement.plan(*where)
        self.take(
            self.writer.carry_out(
                request,
                plan,
                host=model.host,
                pool=model.pool,
                folder=model.folder,
                tell=self.reasons.append,
            )
        )

    def take(self, facts):
        for fact in facts:
            self.told.append((fact.request.saved.epoch, fact.committed))

    def finish(self):
        self.writer.queue.wait()
        self.take(self.writer.queue.news())
        return self.told


@pytest.mark.parametrize("in_background", [False, True])
def test_each_save_comes_to_an_end(tmp_path, in_background):
    saver = Saver(Model(tmp_path), in_background=in_background)
    for epoch in range(4):
        saver.save(epoch, 1.0 / (epoch + 1))
    if not in_background:
        assert saver.told == [(epoch, True) for epoch in range(4)]
    assert saver.finish() == [(epoch, True) for epoch in range(4)]


def test_training_goes_on_while_two_are_under_way(tmp_path, hold):
    saver = Saver(Model(tmp_path), in_background=True)
    hold.close()
    saver.save(0)
    saver.save(1)
    assert saver.told == []
    hold.open()
    assert saver.finish() == [(0, True), (1, True)]


def test_a_fixed_name_takes_the_place_of_what_has_not_begun(tmp_path, hold):
    saver = Saver(Model(tmp_path, "best.safetensors"), in_background=True)
    hold.close()
    for epoch in range(5):
        saver.save(epoch, replaces=True)
    hold.open()
    assert [e for e, committed in saver.finish() if committed] == [0, 4]


def test_a_bad_state_takes_the_place_of_nothing(tmp_path, hold):
    model = Model(tmp_path, "best.safetensors")
    saver = Saver(model, in_background=True)
    hold.close()
    saver.save(0, replaces=True)
    saver.save(1, replaces=True)
    model.weights["w"][0] = np.inf
    saver.save(2, replaces=True)
    assert saver.told == [(2, False)]
    hold.open()
    assert saver.finish()[1:] == [(0, True), (1, True)]


@pytest.mark.parametrize("in_background", [False, True])
def test_what_the_disk_refuses_is_a_fact_and_the_next_save_goes_on(tmp_path, in_background):
    saver = Saver(Model(tmp_path), in_background=in_background)
    (tmp_path / "w_0.safetensors").mkdir()
    saver.save(0)
    saver.save(1)
    assert [e for e, committed in saver.finish() if committed] == [1]
    assert (0, False) in saver.told


def test_a_model_that_cannot_be_written_at_all_is_the_callers_to_hear_of(tmp_path):
    def save(path):
        raise TypeError("cannot be pickled")

    saver = Saver(Model(tmp_path, save=save), in_background=True)
    with pytest.raises(TypeError, match="pickled"):
        saver.save(0)
    assert saver.told == []
    assert saver.reasons == ["the loop's own save() needs the model itself"]
    assert [n for n in os.listdir(tmp_path) if n.endswith(".safetensors")] == []


@pytest.mark.parametrize("in_background", [False, True])
def test_bad_states_that_are_saved_on_purpose_push_no_good_one_out(tmp_path, in_background):
    model = Model(tmp_path)
    saver = Saver(model, in_background=in_background)
    saver.save(0, keep_last=1, exempt=None)
    model.weights["w"][0] = np.nan
    for epoch in (1, 2, 3):
        saver.save(epoch, keep_last=1, exempt=None)
    saver.finish()
    names = sorted(n for n in os.listdir(tmp_path) if n.endswith(".safetensors"))
    assert names == ["w_0.safetensors", "w_3.safetensors"]
