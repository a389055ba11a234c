"""Copies by several threads: the same bytes, nothing written afterwards, no thread left."""

import os
import threading

import numpy as np
import pytest

from peakhold.snapshots import copying
from peakhold.snapshots.copying import copy_arrays


def pairs_of(sources):
    return [(np.empty(s.shape, s.dtype.newbyteorder("<")), s) for s in sources]


def sources():
    rng = np.random.default_rng(0)
    large = rng.random((3_000_001,)).astype("f4")  # 12 MB, no multiple of a piece
    return [
        large,
        rng.random((1500, 1500)).T,
        rng.random((4_000_000,))[::2],
        large.astype(">f4"),
        large.view("u1")[:-3],
        np.full((2048, 1024), 3 + 4j),
        np.asfortranarray(rng.random((900, 1100))),
        np.float32(7).reshape(()),
        np.empty((0, 5), "i8"),
        *(np.full(100 + i, i, "i4") for i in range(50)),
    ]


@pytest.fixture(params=[1, 2, 4])
def n_cores(request, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(request.param)))
    return request.param


def test_every_layout_is_copied_and_no_thread_is_left(n_cores, monkeypatch):
    started = []
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda t: (started.append(t), start(t))[1])
    pairs = pairs_of(sources())
    copy_arrays(pairs)

    assert all(np.array_equal(target, source) for target, source in pairs)
    assert [t.name for t in started] == ["peakhold-copy"] * (n_cores - 1)
    assert not any(t.is_alive() for t in started)


def test_small_states_start_no_thread(n_cores, monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", lambda t: pytest.fail("a thread"))
    pairs = pairs_of([np.arange(1000.0), np.ones((100, 100))])
    copy_arrays(pairs)

    assert all(np.array_equal(target, source) for target, source in pairs)


def test_without_threads_to_be_had_the_caller_copies(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(threading.Thread, "start", refuse)
    pairs = pairs_of(sources())
    copy_arrays(pairs)

    assert all(np.array_equal(target, source) for target, source in pairs)


def test_an_error_is_raised_once_all_threads_have_ended(n_cores):
    pairs = pairs_of(sources() * 2)
    pairs[5] = (np.empty((7, 300_000)), np.ones((8, 300_000)))
    with pytest.raises(ValueError, match="broadcast"):
        copy_arrays(pairs)

    assert not [t for t in threading.enumerate() if t.name == "peakhold-copy"]


def test_what_the_source_becomes_afterwards_is_not_seen(n_cores):
    source = np.ones(30_000_000, "f4")  # 120 MB: 29 pieces
    target = np.empty_like(source)
    for value in range(5):
        source[...] = value
        copy_arrays([(target, source)])
        source[...] = -1
        assert (target == value).all()


def test_pieces_cover_an_array_exactly():
    target, source = np.zeros(3_000_001, "f8"), np.ones(3_000_001, "f8")
    for piece, part in copying._pieces(target, source):
        assert piece.nbytes <= copying._PIECE
        piece += part

    assert (target == 1).all()
