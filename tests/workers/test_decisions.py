"""Whatever the split of the data, the workers decide as one that has seen all of it."""

import json
import math
import pathlib
import tempfile
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peakhold import EarlyStopping, ModelCheckpoint, ReduceLROnPlateau
from peakhold._core.aggregates import aggregate, part_of
from peakhold.distributed import Max, Mean, Min, Sum
from workers.rig import together, train

VALUES = st.one_of(
    st.floats(0, 1, allow_nan=False).map(lambda value: round(value, 2)),
    st.sampled_from([math.nan, math.inf]),
)


@st.composite
def splits(draw):
    """Histories by worker: what each has seen of each epoch, with how many samples."""
    size = draw(st.integers(1, 8))
    n_epochs = draw(st.integers(1, 7))
    return [
        [
            {"val_loss": Mean(draw(VALUES), draw(st.sampled_from([0, 1, 3, 32])))}
            for _ in range(n_epochs)
        ]
        for _ in range(size)
    ]


def callbacks(folder):
    return [
        EarlyStopping("val_loss", patience=2, restore_best_weights=True),
        ReduceLROnPlateau("val_loss", patience=1, factor=0.5),
        ModelCheckpoint(f"{folder}/m.safetensors", monitor="val_loss", save_best_only=True),
    ]


def known(ran):
    """What a worker knows when its run has ended."""
    stopper, plateau, saver = ran.callbacks.values()
    return json.dumps(
        {
            "epochs": ran.epochs,
            "rates": ran.rates,
            "rate": ran.model.rate,
            "weights": ran.model.value,
            "stopper": [stopper.best, stopper.wait, stopper.best_epoch, stopper.stopped_epoch],
            "state": stopper.state_dict(),
            "plateau": [plateau.best, plateau.wait],
            "saver": [saver.best, saver.best_epoch, saver.best_path and saver.best_path[-13:]],
        },
        default=str,
    )


@pytest.mark.filterwarnings("ignore::peakhold.errors.PeakholdWarning")
@settings(max_examples=40, deadline=None)
@given(histories=splits(), delays=st.lists(st.integers(0, 3), min_size=1, max_size=20))
def test_workers_decide_as_one_that_sees_all(histories, delays):
    size = len(histories)
    merged = [
        aggregate([{name: part_of(v) for name, v in each[i].items()} for each in histories])[0]
        for i in range(len(histories[0]))
    ]
    pause = threading.Event()

    def before(rank, name, key):
        delay = delays[(rank + len(key)) % len(delays)]
        if name == "set" and delay:
            pause.wait(delay / 1000)  # others come first

    with tempfile.TemporaryDirectory() as folder:
        alone = train(callbacks(f"{folder}/alone"), merged)
        ran = together(
            size,
            lambda rank, channel: train(
                callbacks(f"{folder}/all"), histories[rank], channel=channel
            ),
            before=before,
        )
        files = [
            sorted(p.name for p in pathlib.Path(folder, one).iterdir())
            for one in ("alone", "all")
            if pathlib.Path(folder, one).is_dir()
        ]

    assert {known(one) for one in ran} == {known(alone)}
    assert not files or all(each == files[0] for each in files)


# How a metric is put together


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ([0.5, 0.1], 0.3),
        ([Mean(0.5, 3), Mean(0.1, 1)], 0.4),
        ([Mean(0.5, 3), Mean(math.nan, 0)], 0.5),
        ([Mean(0.5, 0), Mean(0.5, 0)], math.nan),
        ([0.1, 0.1, 0.1], 0.1),
        ([-0.0, -0.0], -0.0),
        ([0.5, math.nan], math.nan),
        ([math.inf, 0.5], math.inf),
        ([math.inf, -math.inf], math.nan),
        ([1e308, 1e308], 1e308),
        ([Sum(3), Sum(4)], 7.0),
        ([Sum(3), Sum(3)], 6.0),
        ([Sum(1e308), Sum(1e308)], math.inf),
        ([Min(0.5), Min(0.25)], 0.25),
        ([Max(0.5), Max(0.75)], 0.75),
        ([Max(0.5), Max(math.nan)], math.nan),
    ],
    ids=repr,
)
def test_a_metric_of_all(parts, whole):
    for order in (parts, parts[::-1]):
        metrics, partial = aggregate([{"m": part_of(one)} for one in order])

        assert repr(metrics) == repr({"m": whole})
        assert partial == []


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(1, 100)), min_size=1), st.randoms())
def test_the_order_of_workers_is_nothing_to_a_mean(parts, random):
    reports = [{"m": part_of(Mean(value, weight))} for value, weight in parts]
    shuffled = random.sample(reports, len(reports))

    assert aggregate(reports) == aggregate(shuffled)


def test_a_metric_that_only_some_have_is_theirs():
    assert aggregate([{"a": part_of(1.0)}, {"b": part_of(Mean(2.0, 5))}]) == (
        {"a": 1.0, "b": 2.0},
        ["a", "b"],
    )


def test_two_ways_to_put_one_metric_together_are_an_error():
    with pytest.raises(ValueError, match=r"expected one way .* got loss=\['mean', 'sum'\]"):
        aggregate([{"loss": part_of(1.0)}, {"loss": part_of(Sum(1.0))}])


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf, "many", None])
def test_a_weight_is_a_number_of_samples(weight):
    with pytest.raises(ValueError, match=r"expected a number of samples, 0 or more, got weight="):
        Mean(0.5, weight=weight)


def test_a_mean_is_copied_with_its_weight():
    import copy
    import pickle

    for other in (copy.copy(Mean(0.5, 3)), pickle.loads(pickle.dumps(Mean(0.5, 3)))):
        assert (other, other.weight, type(other)) == (0.5, 3.0, Mean)
