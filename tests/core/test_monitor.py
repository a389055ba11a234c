import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peakhold._core.monitor import Criterion, Direction, closest_name, infer_direction

numbers = st.floats(allow_nan=True, allow_infinity=True)
maybe = st.one_of(st.none(), numbers)
deltas = st.floats(min_value=0, max_value=1e6)


@given(value=maybe, reference=maybe, delta=deltas, relative=st.booleans())
def test_max_is_min_in_a_mirror(value, reference, delta, relative):
    def mirror(number):
        return None if number is None else -number

    smaller = Criterion(Direction.MIN, delta, relative).improves(value, reference)
    larger = Criterion(Direction.MAX, delta, relative).improves(mirror(value), mirror(reference))

    assert smaller == larger


@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("reference", [None, 0.0, math.inf, -math.inf, math.nan])
def test_what_is_no_number_is_never_better_not_even_than_nothing(direction, value, reference):
    assert not Criterion(direction).improves(value, reference)


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_equal_is_no_improvement_and_anything_beats_nothing(value):
    for direction in Direction:
        assert not Criterion(direction).improves(value, value)
        assert Criterion(direction).improves(value, None)
        assert Criterion(direction).improves(value, math.nan)


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("val/loss", "min"), ("eval/accuracy", "max"), ("test.f1", "max"), ("dev.my_loss", "min"),
        ("metrics/val_auc_1", "max"), ("val.epoch/mean_iou", "max"), ("eval/speed", None),
        ("loss/speed", None), ("accuracy.weight", None),
    ],
)  # fmt: skip
def test_the_last_word_of_a_name_tells(name, direction):
    assert infer_direction(name) == direction


@given(a=numbers, b=numbers, delta=deltas)
def test_two_values_are_never_each_better_than_the_other(a, b, delta):
    criterion = Criterion(Direction.MIN, delta)

    assert not (criterion.improves(a, b) and criterion.improves(b, a))


@pytest.mark.parametrize(
    ("value", "reference", "improves"),
    [
        (0.98, 1.0, True),
        (0.995, 1.0, False),
        (98e-6, 100e-6, True),
        (-1.02, -1.0, True),
        (0.5, math.inf, True),
    ],
)
def test_a_relative_delta_is_a_part_of_the_reference(value, reference, improves):
    assert Criterion(Direction.MIN, 0.01, relative=True).improves(value, reference) is improves


@pytest.mark.parametrize(
    ("monitor", "direction"),
    [
        ("loss", "min"), ("val_loss", "min"), ("out1_loss", "min"), ("val_out1_mae", "min"),
        ("accuracy", "max"), ("val_acc", "max"), ("AUC", "max"), ("val_auc_1", "max"),
        ("dev_f1", "max"), ("false_positives", "min"), ("mean_squared_error", "min"),
        ("custom_metric", None), ("val_my_metric", None), ("learning_rate", None),
        ("lossy", None), ("", None), ("score", None),
    ],
)  # fmt: skip
def test_a_direction_is_known_or_none_and_never_guessed(monitor, direction):
    assert infer_direction(monitor) == direction


def test_what_the_host_knows_comes_before_the_name():
    assert infer_direction("val_accuracy", {"accuracy": Direction.MIN}) == Direction.MIN
    assert infer_direction("val_odd", {"odd": Direction.MAX}) == Direction.MAX
    assert infer_direction("odd", {"odd": None}) is None


@pytest.mark.parametrize(
    ("monitor", "available", "meant"),
    [
        ("acc", ["accuracy", "loss"], "accuracy"),
        ("val_acc", ["accuracy", "loss", "val_accuracy"], "val_accuracy"),
        ("val_AUC", ["auc_1", "val_auc_1"], "val_auc_1"),
        ("f1", ["f1_score", "loss"], "f1_score"),
        ("val_los", ["loss", "val_loss"], "val_loss"),
        ("val_loss", ["accuracy", "loss"], None),
        ("unknown", ["loss"], None),
        ("loss", [], None),
    ],
)
def test_the_name_that_was_meant(monitor, available, meant):
    assert closest_name(monitor, available) == meant
