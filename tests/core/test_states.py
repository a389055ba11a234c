"""A state that comes from a file is looked at, field by field, before a policy counts with it."""

import dataclasses
import importlib
import pkgutil

import pytest

import peakhold._core.policies as package
from peakhold._core.states import checked

STATES = sorted(
    {
        kind
        for module in pkgutil.iter_modules(package.__path__)
        for kind in vars(importlib.import_module(f"{package.__name__}.{module.name}")).values()
        if dataclasses.is_dataclass(kind) and kind.__name__.endswith("State")
    },
    key=lambda kind: kind.__name__,
)
FIELDS = [(kind, field.name) for kind in STATES for field in dataclasses.fields(kind)]
WRONG = ("3", 10**400, [1], {"a": 1}, (object(),), 1j)


def named(value):
    return getattr(value, "__name__", str(value)[:12])


def test_every_policy_s_state_is_found():
    assert {"EarlyStoppingState", "PlateauState", "CheckpointState", "AlertState"} <= {
        kind.__name__ for kind in STATES
    }


@pytest.mark.parametrize("kind", STATES, ids=named)
def test_a_state_of_ours_is_as_its_annotations_say(kind):
    state = kind()

    assert checked(state) is state


@pytest.mark.parametrize("wrong", WRONG, ids=named)
@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=named)
def test_a_field_of_another_kind_is_refused_by_name(kind, name, wrong):
    if name in {"told_at", "held"} and wrong == {"a": 1}:
        wrong = {"a": "b"}
    state = dataclasses.replace(kind(), **{name: wrong})

    with pytest.raises(TypeError, match=f"^{name} is a {type(wrong).__name__}$"):
        checked(state)


@pytest.mark.parametrize("number", [0, 7, -1, 0.5, float("nan"), float("inf")])
def test_a_number_is_a_number(number):
    from peakhold._core.policies.early_stopping import EarlyStoppingState

    assert checked(EarlyStoppingState(best=number)).best is number
