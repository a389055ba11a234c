"""States whose content tells which step they are of, and what must hold of any store's folder."""

import warnings

import numpy as np

from peakhold.errors import PeakholdWarning
from peakhold.store import Reader


def state(step):
    """Two parts, several tensors, all of them told by `step`."""
    rng = np.random.default_rng(step)
    return {
        "model": {
            "kernel": rng.standard_normal((40, 25)).astype(np.float32),
            "bias": rng.standard_normal(25),
            "steps": np.array(step),
            "note": f"after {step}",
        },
        "train": {"step": step, "rate": 1 / (step + 1), "rng": rng.integers(0, 255, 32, np.uint8)},
    }


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for part, tree in expected.items():
        assert list(got[part]) == list(tree)
        for name, value in tree.items():
            if isinstance(value, np.ndarray):
                assert got[part][name].dtype == value.dtype
                assert got[part][name].tobytes() == value.tobytes(), (part, name)
            else:
                assert got[part][name] == value


def survey(folder):
    """Read everything as a stranger would: all that is listed must be whole and what it says it is.

    Returns the steps, oldest commit first.
    """
    reader = Reader(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PeakholdWarning)  # nothing may be passed over
        entries = reader.list()
        for finding in reader.verify():
            assert finding.ok, finding
        for entry in entries:
            assert_same(reader.load(entry).parts, state(entry.step))
        if entries:
            assert reader.load("latest").entry == entries[-1]
    return [entry.step for entry in entries]


def quietly(call, *args, **kwargs):
    """Call with Peakhold's warnings silenced: a test of failures gets many of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PeakholdWarning)
        return call(*args, **kwargs)
