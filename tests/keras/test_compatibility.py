"""`docs/explanation/compatibility.md` says of each name of Keras's classes what is true of it."""

import pytest

import keras
from compatibility import (
    ANCHOR,
    BOOKKEEPING,
    MAKERS,
    OF_EVERY_CLASS,
    PAGE,
    arguments,
    attributes,
    lenders_of,
    names_of,
    rows,
    shown,
)
from peakhold import keras as pk

pytestmark = pytest.mark.torch_is_enough("whose name is whose is said by Python")


@pytest.mark.parametrize("name", MAKERS)
def test_each_name_is_listed_with_what_becomes_of_it(name):
    """No name that a class of Keras's or a base of it defines is left out."""
    defined = {key for lender in lenders_of(name) for key in vars(lender)}
    listed = {line.split("`")[1] for line in shown(name)}

    assert listed == defined - OF_EVERY_CLASS - BOOKKEEPING == set(names_of(name))
    assert shown(name) == list(rows(name))


@pytest.mark.parametrize("name", MAKERS)
def test_the_attributes_of_objects_are_listed(name):
    assert attributes(name) in shown("Attributes of objects")


@pytest.mark.parametrize("name", MAKERS)
def test_the_arguments_are_keras_s_and_in_their_order(name):
    assert arguments(name) in shown("Arguments")


def test_the_page_lists_every_class_that_both_have():
    both = {
        name
        for name, cls in vars(keras.callbacks).items()
        if isinstance(cls, type) and issubclass(getattr(pk, name, object), pk.Callback.__mro__[1])
    }
    tables = PAGE.read_text(encoding="utf-8").partition(ANCHOR)[2]
    titles = {line[4:] for line in tables.splitlines() if line.startswith("### ")}

    assert titles == set(MAKERS) == both - {"Callback", "CallbackList"}


def test_what_isinstance_says_on_the_page_is_so():
    for name, make in MAKERS.items():
        assert isinstance(make(getattr(pk, name)), getattr(keras.callbacks, name))
