"""What is saved is what was passed: no array for another, and no key that `load` would refuse."""

import enum
import gc
import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pytest
import torch

from peakhold.errors import CheckpointDamagedError, InvalidArgumentError
from peakhold.snapshots.tree import flatten, parse_json, to_json, unflatten
from peakhold.store import Reader, Store


class Lazy(Mapping):
    """Makes each value when it is asked for, and keeps none: their addresses are used again."""

    def __init__(self, make, n=200):
        self.make, self.n = make, n

    def __getitem__(self, key):
        return self.make(int(key))

    def __iter__(self):
        return map(str, range(self.n))

    def __len__(self):
        return self.n


class Shown:
    """Has the array protocol, and memory that is made anew each time."""

    def __init__(self, value):
        self.value = value

    def __array__(self, dtype=None, copy=None):
        return np.full(3, self.value, np.float32)


def as_jax(value):
    import jax.numpy as jnp

    return jnp.full(3, value)


KINDS = {
    "array": lambda i: np.full(3, i),
    "empty": lambda i: np.zeros((0, i)),
    "view": lambda i: np.full(6, i)[::2],
    "number": lambda i: np.float32(i),
    "protocol": Shown,
    "buffer": lambda i: memoryview(bytearray([i] * 3)),
    "torch": lambda i: torch.full((3,), float(i)),
    "torch, converted": lambda i: torch.full((3,), float(i), dtype=torch.bfloat16),
    "jax": as_jax,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("copied", [True, False])
def test_values_that_die_while_they_are_walked_stay_themselves(tmp_path, kind, copied):
    make = KINDS[kind]
    gc.collect()
    with Store(tmp_path) as store:
        store.save(1, {"m": Lazy(make), "n": [Lazy(make, 5)]}, immutable=not copied).result()
    got = Reader(tmp_path).load()
    for number in range(200):
        expected = make(number)
        array = np.asarray(expected.float() if isinstance(expected, torch.Tensor) else expected)
        found = np.asarray(got["m"][str(number)])
        assert found.shape == array.shape
        assert found.astype(np.float64).tolist() == array.astype(np.float64).tolist()


def test_one_array_twice_is_one_array_still(tmp_path):
    shared = np.arange(4)
    with Store(tmp_path) as store:
        store.save(1, {"m": {"a": shared, "b": [shared], "c": shared.copy()}}).result()
    got = Reader(tmp_path).load()["m"]
    assert got["a"] is got["b"][0] and got["a"] is not got["c"]


@pytest.mark.parametrize("names", [
    [{"a": {"b": 0}, "a/b": 1}], [{"a": {"b": 0, "b#2": 1}, "a/b": 2}], [{1: 0, "1": 1}],
    [{"m": 0}, {"": 1}], [{"x": {"": 0}, "x/": 1, "": {"x": {"": 2}}}], [{"__metadata__": 0}],
])  # fmt: skip
def test_names_that_coincide_drop_no_array(tmp_path, names):
    def arrays(tree):
        if isinstance(tree, dict):
            return {key: arrays(value) for key, value in tree.items()}
        return [arrays(v) for v in tree] if isinstance(tree, list) else np.full(2, tree)

    def numbers(tree):
        if isinstance(tree, dict):
            return {key: numbers(value) for key, value in tree.items()}
        return [numbers(v) for v in tree] if isinstance(tree, list) else int(tree[0])

    with Store(tmp_path) as store:
        store.save(1, {"m": arrays(names)}).result()
    assert numbers(Reader(tmp_path).load()["m"]) == names


# -- keys, and numbers ------------------------------------------------------------------------


class Level(enum.IntEnum):
    LOW = 1


class Word(str, enum.Enum):
    ONE = "one"


KEYS = {
    "np.float64": (np.float64(0.5), 0.5),
    "np.str_": (np.str_("a"), "a"),
    "in a tuple": ((np.float64(0.5), ("a", None)), (0.5, ("a", None))),
    "infinity": (math.inf, math.inf),
    "an IntEnum": (Level.LOW, 1),
    "a str and Enum": (Word.ONE, "one"),
    "True": (True, True),
    "a large int": (10**4299, 10**4299),
    "with a mark": ("$tensor", "$tensor"),
    "a lone surrogate": ("\ud800", "\ud800"),
}


@pytest.mark.parametrize("key", KEYS)
def test_what_is_taken_as_a_key_is_loaded(tmp_path, key):
    saved, loaded = KEYS[key]
    with Store(tmp_path) as store:
        store.save(1, {"m": {saved: np.arange(2), "other": 1}}).result()
        assert store.verify()[0].ok
    found = list(Reader(tmp_path).load()["m"])
    assert found == [loaded, "other"] and type(found[0]) is type(loaded)


@pytest.mark.parametrize("key", [
    math.nan, np.float64("nan"), (1, math.nan), 10**4300, -(10**4300), b"bytes", np.int64(1),
    Fraction(1, 2), frozenset(), (1, b"x"),
], ids=lambda key: type(key).__name__)  # fmt: skip
def test_what_load_would_refuse_as_a_key_is_refused_at_save(tmp_path, key):
    with Store(tmp_path) as store:
        with pytest.raises(InvalidArgumentError, match=r"parts\['m'\]"):
            store.save(1, {"m": {key: 1}})
        assert store.list() == []


@pytest.mark.parametrize(
    "value", [10**4300, [10**5000], {"a": (-(10**4300),)}], ids=["alone", "in a list", "negative"]
)
def test_an_int_that_json_cannot_hold_is_refused_at_save(tmp_path, value):
    with Store(tmp_path) as store:
        with pytest.raises(InvalidArgumentError, match="4,300 digits"):
            store.save(1, {"m": value})


def test_keys_that_become_one_are_refused(tmp_path):
    class Both(Mapping):
        def __iter__(self):
            return iter([1, 1])

        def __len__(self):
            return 2

        def __getitem__(self, key):
            return "value"

    for twice in (Both(), {Word.ONE: 1, np.str_("two"): 2, "x": Both()}):
        with pytest.raises(InvalidArgumentError, match="twice"):
            flatten("m", twice)


def test_a_number_that_is_a_string_and_an_enum_is_its_value():
    skeleton, _ = flatten("m", {"a": Word.ONE, "b": Level.LOW, "c": np.str_("x")})
    assert unflatten(parse_json(to_json(skeleton)), None) == {"a": "one", "b": 1, "c": "x"}


# -- verify checks what load checks -----------------------------------------------------------


@pytest.mark.parametrize("tree", [
    b'{"$dict":[[{"$tensor":"w"},1]]}', b'{"$dict":[[[1],1]]}', b'{"$dict":[[{"$bytes":"YQ=="},1]]}',
    b'{"$tensor":"gone"}', b'{"a":1e999}', b'{"$float":"low"}', b'{"$dict":[[1,2],[1,3]]}',
    b'{"$complex":[1,2]}', b"[" * 700 + b"]" * 700,
])  # fmt: skip
def test_what_load_refuses_verify_does_not_call_good(tmp_path, tree):
    from hostile_folders import Hostile

    with Store(tmp_path / "store") as store:
        entry = store.save(1, {"m": {"w": np.arange(3)}}).result()
    hostile = Hostile(entry.path, tmp_path / "outside")
    hostile.put("m.json", tree)
    hostile.seal()
    reader = Reader(tmp_path / "store")
    with pytest.raises(CheckpointDamagedError) as loading:
        reader.load(1)
    (finding,) = reader.verify()
    (damage,) = finding.damage
    assert damage.reason.endswith(loading.value.reason)


@pytest.mark.parametrize("array", [np.full, torch.full], ids=["numpy", "torch"])
def test_dotted_names_that_coincide_drop_no_array_of_a_loops_file(tmp_path, array):
    from safetensors.numpy import load_file

    from peakhold import LoopHost

    state = {"a": {"b": array((2,), 1.0)}, "a.b": array((2,), 2.0), "a.b#2": array((2,), 3.0),
             1: array((2,), 4.0), "1": array((2,), 5.0)}  # fmt: skip
    host = LoopHost(get_state=lambda: state, set_state=lambda _: None)
    with open(tmp_path / "x.safetensors", "wb") as file:
        host.write(file, ".safetensors", str(tmp_path))
    found = load_file(tmp_path / "x.safetensors")
    assert sorted(float(value[0]) for value in found.values()) == [1, 2, 3, 4, 5]
    assert found["a.b"][0] == 1
