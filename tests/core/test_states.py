"""A state that comes from a file is looked at, field by field, before a policy counts with it."""

import copy
import dataclasses
import importlib
import inspect
import pickle
import pkgutil

import pytest

import peakhold._core.policies as package
from peakhold._core.moments import Moment
from peakhold._core.states import checked, quickly_made

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


FIELDS_OF_EACH_KIND = [
    ("n", int),
    ("kept", dict, dataclasses.field(default_factory=dict)),
    ("to", str, "x"),
]


def made_by(dataclass):
    return dataclass(
        dataclasses.make_dataclass("Made", FIELDS_OF_EACH_KIND, frozen=True, slots=True)
    )


def test_what_is_made_quickly_is_made_as_a_dataclass_makes_it():
    plain, quick = made_by(lambda kind: kind), made_by(quickly_made)

    assert inspect.signature(quick) == inspect.signature(plain)
    assert repr(quick(1)) == repr(plain(1)) == "Made(n=1, kept={}, to='x')"
    assert quick(1).kept is not quick(1).kept
    assert dataclasses.astuple(quick(1, {2: 3}, to="y")) == (1, {2: 3}, "y")
    assert type(quick(1)) is quick
    for wrong in ((), (1, {}, "x", 4)):
        with pytest.raises(TypeError, match="__init__"):
            quick(*wrong)


@pytest.mark.parametrize("kind", [*STATES, Moment], ids=named)
def test_a_state_is_frozen_compared_copied_and_pickled(kind):
    n_required = sum(
        one.default is one.default_factory is dataclasses.MISSING
        for one in dataclasses.fields(kind)
    )
    state = kind(*range(n_required))
    name = next((one.name for one in dataclasses.fields(kind)), "other")

    assert type(state) is kind
    assert state == kind(*range(n_required))
    assert copy.deepcopy(state) == copy.copy(state) == dataclasses.replace(state) == state
    assert pickle.loads(pickle.dumps(state)) == state
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        setattr(state, name, 1)
