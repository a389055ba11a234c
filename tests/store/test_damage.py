"""Whatever happens to the bytes on disk is found, named, and passed over."""

import os
import random
import shutil
from pathlib import Path

import pytest

from peakhold.errors import CheckpointDamagedError, CheckpointDamagedWarning
from peakhold.store import Reader, Store
from store_support import assert_same, quietly, state

FILES = ["manifest.json", "model.safetensors", "model.json", "train.safetensors", "train.json"]


def assert_found(folder, file=None):
    """The newest is damaged: it is named, and the next good one served."""
    reader = Reader(folder)
    with pytest.raises(CheckpointDamagedError, match="step-00000003") as caught:
        reader.load("latest", if_damaged="error")
    if file is not None:
        assert caught.value.file == file
    with pytest.warns(CheckpointDamagedWarning, match="step-00000003"):
        loaded = Reader(folder).load("latest")
    assert loaded.entry.step == 2
    assert [Path(error.path).name for error in loaded.passed_over] == ["step-00000003"]
    assert_same(loaded.parts, state(2))
    assert [f.name for f in reader.verify() if not f.ok] == ["step-00000003"]
    return caught.value


def test_every_single_bit_flip(folder):
    """A thousand and more, in every file; the tensor is named when it is one."""
    rng = random.Random(0)
    flips, tensors = 0, set()
    for file in FILES:
        path = folder / "step-00000003" / file
        data = path.read_bytes()
        for position in rng.sample(range(8 * len(data)), min(260, 8 * len(data))):
            damaged = bytearray(data)
            damaged[position // 8] ^= 1 << position % 8
            path.write_bytes(damaged)
            error = assert_found(folder, file) if flips % 10 == 0 else found(folder)
            tensors.add(error.tensor)
            flips += 1
        path.write_bytes(data)
    assert quietly(Reader(folder).load).entry.step == 3
    print(
        f"{flips} of {flips} bit flips found; damaged tensors named: {sorted(filter(None, tensors))}"
    )
    assert flips >= 1000
    assert tensors >= {"kernel", "bias", "steps", "rng", None} - {"steps"}


def found(folder):
    with pytest.raises(CheckpointDamagedError, match="step-00000003") as caught:
        Reader(folder).load("latest", if_damaged="error")
    return caught.value


def truncate(path, data):
    path.write_bytes(data[: len(data) // 2])


def cut_last_byte(path, data):
    path.write_bytes(data[:-1])


def empty(path, data):
    path.write_bytes(b"")


def grow(path, data):
    path.write_bytes(data + b"\0")


def zero_page(path, data):
    page = bytearray(data)
    page[len(page) // 4 : len(page) // 4 + 4096] = b"\0" * len(page[len(page) // 4 :][:4096])
    path.write_bytes(page)


def remove(path, data):
    path.unlink()


def stale(path, data):
    """The same file of the checkpoint before."""
    shutil.copy(path.parent.parent / "step-00000002" / path.name, path)


def other_file(path, data):
    other = "train.json" if path.name != "train.json" else "model.json"
    path.write_bytes((path.parent / other).read_bytes())


def folder_instead(path, data):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "harm",
    [truncate, cut_last_byte, empty, grow, zero_page, remove, stale, other_file, folder_instead],
    ids=lambda harm: harm.__name__,
)
def test_harm_to_a_file(folder, file, harm):
    path = folder / "step-00000003" / file
    harm(path, path.read_bytes())
    assert_found(folder, file)


def test_swapped_and_renamed_checkpoints(folder):
    os.rename(folder / "step-00000003", folder / "old")
    shutil.copytree(folder / "step-00000002", folder / "step-00000003")
    assert "manifest of step-00000002" in assert_found(folder).reason


def test_swapped_tensors_inside_a_file(tmp_path):
    """Two tensors of one shape exchanged: every byte is one that was written, in the wrong place."""
    import numpy as np

    with Store(tmp_path) as store:
        entry = store.save(1, {"m": {"a": np.zeros(64), "b": np.ones(64)}}).result()
    path = entry.path / "m.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1024] + data[-512:] + data[-1024:-512])
    with pytest.raises(CheckpointDamagedError, match="tensor='a'"):
        Reader(tmp_path).load()


def test_the_newest_having_lost_a_file_is_said_when_the_store_is_opened(folder):
    (folder / "step-00000003" / "train.json").unlink()
    store = Store(folder)
    with pytest.warns(UserWarning, match="newest checkpoint is damaged.*train.json"):
        store.wait()
    # A damaged checkpoint is in nobody's way: its step is saved anew, as a revision.
    assert store.save(3, state(3)).result().name == "step-00000003.r2"
    store.close()
    assert quietly(Reader(folder).load).entry.revision == 2


def test_damage_to_older_ones_does_not_touch_the_newest(folder):
    for step in (1, 2):
        (folder / f"step-0000000{step}" / "model.safetensors").unlink()
    assert Reader(folder).load("latest").passed_over == ()
    assert [finding.ok for finding in Reader(folder).verify()] == [False, False, True]


def test_verify_lists_all_that_is_wrong_with_one(folder):
    for file in ("model.safetensors", "train.json"):
        path = folder / "step-00000003" / file
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    (finding,) = Reader(folder).verify(3)
    assert {error.file for error in finding.damage} == {"model.safetensors", "train.json"}


def test_a_folder_that_was_copied_is_the_same_store(folder, tmp_path):
    copied = tmp_path / "elsewhere" / "deep"
    shutil.copytree(folder, copied)
    shutil.rmtree(folder)
    assert_same(Reader(copied).load("latest").parts, state(3))
    with Store(copied) as store:  # nobody owns a copy
        assert [entry.step for entry in store.list()] == [1, 2, 3]
        assert store.latest.path == copied / "step-00000003"
        assert store.save(3, state(3)).result().commit == 4


def test_an_unreadable_file_is_damage_with_a_reason(folder):
    from peakhold.testing import FailingDisk

    class Sick(FailingDisk):
        def read_into(self, fd, views, offset):
            if len(views[0]) > 1000 and offset > 0:
                raise OSError(5, "Input/output error")
            return super().read_into(fd, views, offset)

    with pytest.raises(CheckpointDamagedError, match="Input/output error"):
        Reader(folder, disk=Sick()).load(3)
