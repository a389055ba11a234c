"""Folders made to hurt: a clear error, nothing executed, nothing read outside, memory bounded."""

import inspect
import os
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostile_folders import CASES, Hostile
from hostile_folders import MARK as MARK_NAME
from peakhold.errors import CheckpointDamagedError, StoreOwnedError
from peakhold.store import Reader, Store
from store_support import assert_same, quietly, state

MARK = Path(MARK_NAME)
SECRET = b"the secret outside " * 40
MEMORY = 256 << 20


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "store"
    with Store(folder) as store:
        for step in (2, 3):
            store.save(step, state(step))
    (tmp_path / "outside.safetensors").write_bytes(SECRET)
    return folder


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", CASES)
def test_hostile(folder, name):
    CASES[name](Hostile(folder / "step-00000003", folder.parent / "outside.safetensors"))
    reader = Reader(folder)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointDamagedError) as caught:
            reader.load("latest", if_damaged="error")
        findings = reader.verify()
        loaded = quietly(Reader(folder).load, "latest", ["train"], if_damaged="older")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert "step-00000003" in message and "Hint:" in message and len(message) < 2000
    assert "secret" not in message
    assert [finding.ok for finding in findings if finding.name == "step-00000003"] == [False]
    assert loaded.entry.step in (2, 3)
    assert_same({"train": loaded["train"]}, {"train": state(loaded.entry.step)["train"]})
    assert not MARK.exists(), "something was executed"
    assert peak < MEMORY, f"{peak:,} bytes"


def deep(levels, work):
    return deep(levels - 1, work) if levels else work()


@pytest.mark.parametrize("room", [60, 90, 120, 200])
def test_a_load_from_deep_in_the_stack_is_not_damage(folder, room):
    """Recursion has a limit that the caller may have used up: that says nothing of the file."""
    nested = []
    for _ in range(180):
        nested = [nested]
    with Store(folder) as store:
        store.save(4, {"model": {"deep": nested}}).result()
    here = len(inspect.stack(0))

    def look():
        reader = Reader(folder)
        return reader.load(4)["model"]["deep"], reader.verify(4)[0].ok

    assert deep(sys.getrecursionlimit() - here - room, look) == (nested, True)


@pytest.mark.parametrize("note", ['{"pid":' + "[" * 900 + "]" * 900 + ',"host":1,"since":1}',
                                  '{"pid":1e400,"host":{},"since":[]}', "[1]", "\0", "{"])  # fmt: skip
def test_a_hostile_note_in_the_lock_hurts_nobody(folder, note):
    with Store(folder):
        (folder / ".lock").write_text(note)
        with pytest.raises(StoreOwnedError, match="not written its name"):
            Store(folder)


def test_verify_takes_no_longer_than_there_is_to_read(folder):
    CASES["files_thousands_of_parts"](
        Hostile(folder / "step-00000003", folder.parent / "outside.safetensors")
    )
    started = time.process_time()
    (finding,) = Reader(folder).verify(3)
    assert len(finding.damage) > 1500 and time.process_time() - started < 5


@pytest.mark.parametrize("mmap", [False, True])
def test_a_size_beyond_all_memory_is_refused_before_memory_is_asked_for(folder, mmap, monkeypatch):
    asked, real = [], np.empty
    monkeypatch.setattr(np, "empty", lambda n, *more: (asked.append(n), real(n, *more))[1])
    CASES["size_of_8_tib"](Hostile(folder / "step-00000003", folder.parent / "outside.safetensors"))
    reader = Reader(folder)
    with pytest.raises(CheckpointDamagedError, match=r"model\.safetensors"):
        reader.load(3, mmap=mmap)
    assert not reader.verify(3)[0].ok
    assert max(asked) <= 1 << 20
    assert quietly(reader.load, mmap=mmap).entry.step == 2


def test_a_sparse_file_is_verified_before_it_is_read_into_memory(tmp_path, monkeypatch):
    """Holes are what a file system that compresses makes of zeros: no damage by themselves."""
    zeros = np.zeros(80 << 20, np.uint8)
    with Store(tmp_path) as store:
        entry = store.save(1, {"m": {"a": zeros}}).result()
    path = entry.path / "m.safetensors"
    with open(path, "r+b") as file:  # the same bytes, in a few kilobytes
        header = file.read(path.stat().st_size - len(zeros))
        file.truncate(len(header))
        file.truncate(len(header) + len(zeros))
    assert path.stat().st_blocks * 512 < 1 << 20
    assert not Reader(tmp_path).load()["m"]["a"].any()
    with open(path, "r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    asked, real = [], np.empty
    monkeypatch.setattr(np, "empty", lambda n, *more: (asked.append(n), real(n, *more))[1])
    with pytest.raises(CheckpointDamagedError, match="not those that were written"):
        Reader(tmp_path).load()
    assert max(asked) <= 8 << 20


def test_there_are_enough_of_them():
    print(f"{len(CASES)} hostile checkpoints")
    assert len(CASES) >= 40


def test_nothing_outside_is_opened(folder, monkeypatch):
    """Every path the reader opens is one name inside the folder, and no link is followed."""
    opened = []
    real = os.open

    def spy(path, flags, mode=0o777, *, dir_fd=None):
        opened.append((str(path), dir_fd, flags))
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", spy)
    for name in CASES:
        if name.startswith(("path", "symlink")):
            break
    CASES["path_traversal"](
        Hostile(folder / "step-00000003", folder.parent / "outside.safetensors")
    )
    quietly(Reader(folder).load)
    for path, at, flags in opened:
        if path != str(folder):
            assert at is not None and "/" not in path and path not in (".", "..")
            assert flags & os.O_NOFOLLOW


def test_a_trash_full_of_rubbish_hurts_nobody(folder):
    trash = folder / ".trash"
    trash.mkdir()
    (trash / "000001.step-00000001").symlink_to("/")
    (trash / "000002.step-00000009").mkdir()
    (trash / "rubbish").write_bytes(b"x")
    (trash / "000003.step-00000003").mkdir()
    (trash / "000003.step-00000003" / "manifest.json").write_bytes(b"{}")
    with Store(folder, undo=5) as store:
        assert quietly(store.save, 3, state(3)).result().revision == 2
        with pytest.raises(LookupError):
            store.undelete(9)
    assert os.path.exists("/etc")


def test_leftovers_that_cannot_be_swept_are_said(folder):
    nested = folder / ".tmp-step-00000009-00000000" / "folder"
    nested.mkdir(parents=True)
    link = folder / ".tmp-link"
    link.symlink_to("/")
    store = Store(folder)
    with pytest.warns(UserWarning, match="could not be swept"):
        store.wait()
    store.close()
    assert nested.exists() and os.path.exists("/etc")


@settings(max_examples=300, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(st.data())
def test_random_bytes_in_any_file_are_damage_and_nothing_else(tmp_path_factory, data):
    global _pristine
    if "_pristine" not in globals():
        base = tmp_path_factory.mktemp("pristine") / "store"
        with Store(base) as store:
            store.save(3, state(3))
        _pristine = base
    folder = _pristine / "step-00000003"
    name = data.draw(st.sampled_from(sorted(os.listdir(folder))))
    original = (folder / name).read_bytes()
    start = data.draw(st.integers(0, len(original)))
    junk = data.draw(st.binary(max_size=40))
    stop = data.draw(st.integers(start, len(original)))
    changed = original[:start] + junk + original[stop:]
    (folder / name).write_bytes(changed)
    try:
        if changed == original:
            assert_same(quietly(Reader(_pristine).load).parts, state(3))
        else:
            with pytest.raises(CheckpointDamagedError):
                quietly(Reader(_pristine).load)
    finally:
        (folder / name).write_bytes(original)
