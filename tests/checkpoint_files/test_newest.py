"""Who takes the newest model of a folder by time takes the one that was saved last, by either clock."""

import os
import time

import pytest

from checkpoint_files.organs import Model
from peakhold.disk.disk import Disk
from peakhold.files.newest import make_newest

CLOCKS = [os.path.getctime, os.path.getmtime]


def newest(folder, clock):
    """As Keras's guides restore; of equal times, any."""
    paths = [os.path.join(folder, name) for name in os.listdir(folder)]
    times = [clock(path) for path in paths]
    return {os.path.basename(p) for p, t in zip(paths, times, strict=True) if t == max(times)}


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("foreign", [False, True])
def test_it_is_the_new_one_after_each_save(tmp_path, clock, foreign):
    """Many runs, one right after the other: each sets the one before it aside."""
    path = tmp_path / "best.safetensors"
    for run in range(40):
        model = Model(tmp_path, "best.safetensors", run=f"r{run}")
        if foreign:
            path.write_bytes(b"somebody else's")
        for epoch, value in enumerate((0.5 - run / 100, 0.4 - run / 100)):
            outcome = model.save(epoch, value)
            assert newest(tmp_path, clock) == {path.name}, run
            if outcome.aside is not None:
                assert clock(outcome.aside) < clock(path)


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_file_from_the_future_is_set_back(tmp_path, clock):
    path = tmp_path / "best.safetensors"
    path.write_bytes(b"written where the clock is wrong")
    os.utime(path, (time.time() + 1e6,) * 2)
    outcome = Model(tmp_path, "best.safetensors").save(0, 0.5)

    assert newest(tmp_path, clock) == {path.name}
    assert clock(outcome.aside) < clock(path)


def test_the_new_one_s_own_time_stays(tmp_path):
    model = Model(tmp_path, "best.safetensors", run="r1")
    Model(tmp_path, "best.safetensors", run="r0").save(0, 0.5)
    before = time.time_ns()
    model.save(0, 0.5)
    entry = model.folder.sidecar(str(tmp_path)).entries("best.safetensors")[0]

    assert entry.mtime_ns == os.stat(tmp_path / "best.safetensors").st_mtime_ns
    assert abs(entry.mtime_ns - before) < 60e9


class Ticking(Disk):
    """A file system whose clock ticks in 10 ms: what is touched between two ticks has one time.

    The kernel's own clock cannot be made coarser; so a touch between two ticks does nothing.
    """

    def __init__(self):
        self.touches = 0

    def set_times(self, name, at, accessed_ns, changed_ns):
        self.touches += 1
        if time.monotonic_ns() // 10_000_000 != self.tick:
            super().set_times(name, at, accessed_ns, changed_ns)


def test_it_waits_for_the_tick_of_a_coarse_clock(tmp_path):
    new, old = tmp_path / "new", tmp_path / "old"
    new.write_bytes(b"")
    old.write_bytes(b"")
    os.utime(old, (0, 0))
    disk = Ticking()
    disk.tick = time.monotonic_ns() // 10_000_000

    assert make_newest(str(new), [str(old)], patience_s=2.5, disk=disk)
    assert os.path.getctime(new) > os.path.getctime(old)
    assert disk.touches >= 1


def test_it_gives_up_where_no_time_can_be_set_and_the_save_stands(tmp_path, monkeypatch):
    class Refuses(Disk):
        def set_times(self, name, at, accessed_ns, changed_ns):
            raise PermissionError(1, "not yours")

    new, old = tmp_path / "new", tmp_path / "old"
    new.write_bytes(b"")
    old.write_bytes(b"")

    assert not make_newest(str(new), [str(old)], patience_s=0.01, disk=Refuses())
    assert make_newest(str(new), [str(tmp_path / "nothing")], patience_s=0.01)


def test_what_was_set_aside_is_found_by_nobody_s_pattern_and_loads_by_its_path(tmp_path):
    from safetensors.numpy import load_file

    first = Model(tmp_path, "best.safetensors", run="r0")
    first.weights["w"][:] = 7.0
    first.save(0, 0.5)
    outcome = Model(tmp_path, "best.safetensors").save(0, 0.4)

    assert [p.name for p in tmp_path.glob("*.safetensors")] == ["best.safetensors"]
    assert outcome.aside == str(tmp_path / "previous" / "best.safetensors")
    assert load_file(outcome.aside)["w"][0] == 7.0


def test_a_file_that_is_called_so_is_left_alone(tmp_path):
    (tmp_path / "previous").write_text("a user's")
    Model(tmp_path, "best.safetensors", run="r0").save(0, 0.5)
    outcome = Model(tmp_path, "best.safetensors").save(0, 0.4)

    assert outcome.aside == str(tmp_path / "previous-2" / "best.safetensors")
    assert (tmp_path / "previous").read_text() == "a user's"


# What is said


def test_before_this_run_is_said_of_what_was_there_before(tmp_path):
    Model(tmp_path, "best.safetensors", run="r0").save(0, 0.5)
    model = Model(tmp_path, "best.safetensors")
    model.folder.check(None)
    assert model.save(0, 0.4).was_before

    late = Model(tmp_path, "late.safetensors")
    late.folder.check(None)
    (tmp_path / "late.safetensors").write_bytes(b"another process's, meanwhile")
    outcome = late.save(0, 0.4)
    assert (outcome.was_before, outcome.rewritten) == (False, False)
    assert open(outcome.aside, "rb").read() == b"another process's, meanwhile"


def test_what_somebody_made_of_this_run_s_file_is_replaced(tmp_path):
    model = Model(tmp_path, "best.safetensors")
    model.save(0, 0.5)
    for epoch, value in ((1, 0.4), (2, 0.3)):
        (tmp_path / "best.safetensors").write_bytes(b"smaller")
        outcome = model.save(epoch, value)
        assert (outcome.aside, outcome.rewritten) == (None, True)
    assert not model.save(3, 0.2).rewritten
    assert not (tmp_path / "previous").exists()
