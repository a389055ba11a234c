"""Which thread writes."""

import pytest

from checkpoint_files.organs import NBYTES, Model
from peakhold.checkpoint_files.writer import Placement
from peakhold.host.contract import WEIGHTS


def placed(model, *, in_background=True):
    """The organ, what it books, whether it plans, and the reasons it told."""
    placement, told = Placement(in_background=in_background), []
    booked = placement.buffers_needed(model.host, model.pool, ".safetensors", told.append)
    plan = placement.plan(model.host, model.pool, ".safetensors", told.append)
    return placement, dict(booked), plan, told


@pytest.mark.parametrize(("budget", "copies"), [(None, 2), (2 * NBYTES, 2), (NBYTES, 1)])
def test_as_many_copies_as_fit(tmp_path, budget, copies):
    model = Model(tmp_path)
    model.pool.budget = budget
    placement, booked, plan, told = placed(model)
    assert (placement.copies, booked, told) == (copies, {WEIGHTS: copies}, [])
    assert plan is not None and placement.in_background


def test_training_waits_where_no_copy_fits(tmp_path):
    model = Model(tmp_path)
    model.pool.budget = NBYTES - 1
    placement, booked, plan, told = placed(model)
    assert (booked, plan, placement.in_background) == ({}, None, False)
    assert told == ["a copy of its state does not fit into memory_budget=799"]


def test_training_waits_where_the_model_itself_is_needed(tmp_path):
    placement, booked, plan, told = placed(Model(tmp_path, save=print))
    assert (booked, plan) == ({}, None)
    assert placement.in_background, "the next file may be another matter"
    assert told == ["the loop's own save() needs the model itself"]


def test_nothing_is_planned_where_training_is_to_wait(tmp_path):
    _, booked, plan, told = placed(Model(tmp_path), in_background=False)
    assert (booked, plan, told) == ({}, None, [])
