"""The mean of an epoch: the same bits, whenever it is read, saved, or gone on from."""

import gc
import json
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from peakhold._core.aggregates import Max, Mean, Min, Sum
from peakhold.errors import InvalidArgumentError, NotAScalarError
from peakhold.run.device_values import BLOCK
from peakhold.run.means import Means

nan, inf = math.nan, math.inf
KINDS = {
    "python": float,
    "float32": np.float32,
    "an integer": lambda value: int(value) if math.isfinite(value) else value,
    "torch": lambda value: torch.tensor(value, dtype=torch.float32),
    "torch, float64": lambda value: torch.tensor(value, dtype=torch.float64),
    "torch, with grad": lambda value: torch.tensor(value, requires_grad=True) * 1,
    "torch, bfloat16": lambda value: torch.tensor([[value]], dtype=torch.bfloat16),
}
numbers = st.one_of(st.sampled_from([nan, inf, -inf, -0.0]), st.floats(-1e6, 1e6, width=32))
batches = st.lists(
    st.tuples(numbers, st.sampled_from(list(KINDS)), st.sampled_from([0, 1, 7, 32, 0.5])),
    min_size=1,
    max_size=60,
)


def bits(read):
    return {name: np.float64(value).tobytes() for name, value in read.items()}


def summed(logged):
    """What rule 2 says, in the plainest words."""
    total = weights = 0.0
    for value, weight in logged:
        if weight:
            total += float(value) * weight
            weights += weight
    mean = total / weights if weights else nan
    return nan if math.isnan(mean) else mean


@given(batches, st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)), st.integers(1, 20))
@example([(inf, "python", 1), (-inf, "torch", 1)], set(), {1}, 1)
@example([(1.0, "torch", 1)] * 2 + [(nan, "python", 1)], {1}, {2}, 1)
def test_reading_and_going_on_change_no_bit(logged, read_at, saved_at, times):
    """Over several blocks, of values that change their kind, read and gone on from anywhere."""
    logged = [(KINDS[kind](value), weight) for value, kind, weight in logged] * times
    plain = [
        (getattr(value, "detach", lambda value=value: value)(), weight) for value, weight in logged
    ]
    unbroken, broken = Means(), Means()
    for number, (value, weight) in enumerate(logged):
        unbroken.add({"m": value}, weight)
        broken.add({"m": value}, weight)
        if number % 61 in read_at:
            broken.read()
        if number % 61 in saved_at:
            state = json.loads(json.dumps(broken.state()))
            broken = Means()
            broken.load_state(state)

    assert bits(broken.read()) == bits(unbroken.read())
    assert bits(unbroken.read()) == bits({"m": summed(plain)})
    assert bits(unbroken.read()) == bits(broken.read())


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, BLOCK + 1, 9 * BLOCK + 3])
def test_what_the_loop_does_to_its_tensors_after_that_is_its_own(count):
    means, running = Means(), torch.zeros(())
    for _ in range(count):
        running += 1
        means.add({"m": running, "view": running.view(1)})
        running.mul_(1)
    running.fill_(nan)

    assert means.read() == {"m": (count + 1) / 2, "view": (count + 1) / 2}


def test_a_copy_keeps_no_graph_alive():
    weight = torch.nn.Parameter(torch.ones(()))
    freed = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.watch = type("Watch", (), {"__del__": lambda self: freed.append(1)})()
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad

    means = Means()
    loss = Watched.apply(weight)
    means.add({"m": loss, "parameter": weight})
    del loss

    assert freed
    assert means.read() == {"m": 2.0, "parameter": 1.0}


@pytest.mark.parametrize("inference", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_a_tensor_of_any_mode_is_read_in_any_other(inference):
    means = Means()
    for _ in range(BLOCK // 2 + 1):
        with inference():
            means.add({"m": torch.ones(())})
        means.add({"m": torch.nn.Parameter(torch.ones(())) * 3})

    assert means.read() == {"m": 2.0}


def test_no_value_is_read_before_somebody_asks(monkeypatch):
    """On a CPU as on a GPU, where it would wait."""
    means = Means()
    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "__float__", "__int__", "__bool__", "numpy", "cpu"):
            patch.setattr(torch.Tensor, name, lambda *_, name=name: pytest.fail(name))
        for value in torch.arange(3 * BLOCK).unbind():
            means.add({"m": value})

    assert means.read() == {"m": (3 * BLOCK - 1) / 2}


NUMBERS = {
    "int": (3, 3.0),
    "bool": (True, 1.0),
    "Decimal": (Decimal("0.5"), 0.5),
    "Fraction": (Fraction(1, 2), 0.5),
    "np.float16": (np.float16(0.1), float(np.float16(0.1))),
    "np.int64": (np.int64(2**62), float(2**62)),
    "np.bool": (np.True_, 1.0),
    "np.longdouble": (np.longdouble(0.5), 0.5),
    "0-d": (np.array(0.5), 0.5),
    "one element": (np.array([[7]]), 7.0),
    "torch.int64": (torch.tensor(2**62), float(2**62)),
    "torch.bool": (torch.tensor([True]), 1.0),
    "torch.float16": (torch.tensor(0.1, dtype=torch.float16), float(np.float16(0.1))),
    "torch.float8": (torch.tensor(0.5).to(torch.float8_e4m3fn), 0.5),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_each_kind_of_number_keeps_its_value(kind):
    value, number = NUMBERS[kind]
    means = Means()
    means.add({"m": value})

    assert means.read() == {"m": number}


REFUSED = {
    "None": None,
    "a text": "0.5",
    "an array": np.zeros(3),
    "no element": np.zeros((0,)),
    "complex": 1j,
    "np.complex64": np.complex64(1j),
    "a time": np.timedelta64(3, "s"),
    "tensors": torch.zeros(3),
    "torch.complex64": torch.tensor(1j),
    "a list": [0.5],
    "too large": 10**400,
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_number_is_refused_where_it_is_logged(kind):
    with pytest.raises(
        NotAScalarError, match=r"expected one number .*got loss=(.|\n)*Hint: log"
    ) as told:
        Means().add({"loss": REFUSED[kind]})

    assert told.value.monitor == "loss"


@pytest.mark.parametrize("weight", [-1, nan, inf])
def test_a_weight_is_a_number_of_samples(weight):
    with pytest.raises(InvalidArgumentError, match="weight="):
        Means().add({"loss": 1.0}, weight)


def test_a_name_that_some_batches_do_not_log_is_the_mean_of_those_that_do():
    means = Means()
    for batch in range(10):
        means.add({"loss": torch.tensor(float(batch))}, 2)
        if batch % 5 == 0:
            means.add({"norm": batch, "loss": 0.0}, 2)  # a second time, in the same batch

    assert means.read() == {"loss": 45 / 12, "norm": 2.5}
    assert list(means.read()) == ["loss", "norm"]


def test_of_no_data_there_is_no_mean():
    means = Means()
    means.add({"loss": inf, "other": torch.tensor(1.0)}, 0)

    assert all(map(math.isnan, means.read().values()))
    assert list(means.read()) == ["loss", "other"]
    means.add({"loss": 3.0}, 2)
    assert means.read()["loss"] == 3.0


def test_numbers_that_say_how_they_are_put_together_are_put_together_so():
    means = Means()
    for low, weight in ((3.0, 1), (1.0, 3), (2.0, 0)):
        means.add({"low": Min(low), "high": Max(low), "n": Sum(low), "m": Mean(low, weight)}, 100)
    state = means.state()
    means.add({"low": Min(nan), "high": Max(nan)})

    assert means.read() | {"low": 0, "high": 0} == {"low": 0, "high": 0, "n": 6.0, "m": 1.5}
    assert math.isnan(means.read()["low"])
    assert math.isnan(means.read()["high"])
    means.load_state(state)
    assert means.read() == {"low": 1.0, "high": 3.0, "n": 6.0, "m": 1.5}
    with pytest.raises(InvalidArgumentError, match="one way to put a metric together"):
        means.add({"n": 1.0})
    with pytest.raises(InvalidArgumentError, match="one way to put a metric together"):
        means.add({"m": Sum(1.0)})


def test_other_workers_are_told_how_much_a_mean_counts():
    means = Means()
    means.add({"loss": torch.tensor(0.25), "n": Sum(2)}, 640)
    parts = means.parts()

    assert isinstance(parts["loss"], Mean)
    assert (float(parts["loss"]), parts["loss"].weight) == (0.25, 640.0)
    assert isinstance(parts["n"], Sum)


def test_a_name_whose_kinds_take_turns_is_summed_in_their_order():
    """A metric that is a tensor or a plain number, of several dtypes, over many blocks."""
    means, total = Means(), 0.0
    kinds = list(KINDS.values())
    for batch in range(9 * BLOCK):
        value = kinds[batch * batch % len(kinds)](float(batch % 9) / 8)
        means.add({"m": value}, batch % 5)
        total += float(getattr(value, "detach", lambda value=value: value)()) * (batch % 5)

    assert means.read() == {"m": total / sum(batch % 5 for batch in range(9 * BLOCK))}


def test_a_batch_leaves_no_object_behind():
    """Objects that wait are looked at by each collection of garbage."""
    means, value = Means(), torch.tensor(0.5)
    for _ in range(6 * BLOCK):
        means.add({"m": value})
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(BLOCK - 1):
        means.add({"m": value})

    assert len(gc.get_objects()) - before < 20


def test_a_new_epoch_begins_with_nothing():
    means = Means()
    means.add({"loss": torch.tensor(1.0)})
    means.clear()

    assert means.read() == {}
    means.load_state(means.state())
    assert means.read() == {}
