"""`CheckpointFolder.retain`: only our own files go, and never too early."""

import contextlib
import errno
import json
import math
import os
import shutil

import pytest

from peakhold import files
from peakhold._core.monitor import Direction
from peakhold._core.policies.keep import KeepLast
from peakhold._core.policies.keep_files import keep_files
from peakhold.checkpoint_files.folder import CheckpointFolder
from peakhold.files.sidecar import SavedFile, Sidecar
from peakhold.testing import FailingDisk, WatchedDisk
from sidecar_lines import change, entries_of, in_the_first_form
from store.test_files import hidden, killed

SIDECAR = "w_epoch.bin.peakhold.json"


def entry(epoch, run="r1", **more):
    fields = {"monitor": "loss", "mode": "min", "value": 1.0 / (epoch + 1), **more}
    return SavedFile(checksum="", size=0, epoch=epoch, saved_at="", run_id=run, **fields)


def data(epoch, run="r1"):
    return f"{run} {epoch} ".encode() * 400


class Saver:
    """One run that saves into a folder."""

    def __init__(self, folder, run="r1", *, disk=None, template="w_{epoch}.bin"):
        self.folder, self.run, self.template = folder, run, template
        self.files = CheckpointFolder(str(folder / template), ".bin", run, disk=disk)

    def save(self, *epochs, goes_on=False, **more):
        for epoch in epochs:
            path = str(self.folder / self.template.format(epoch=epoch, run_id=self.run))
            self.files.write(
                path,
                entry(epoch, self.run, **more),
                lambda file, e=epoch: file.write(data(e, self.run)),
                goes_on=goes_on,
            )

    def retain(self, keep_last=None, keep_best=None, **more):
        return self.files.retain(keep_files(keep_last, keep_best, "loss", Direction.MIN), **more)


def names(folder):
    return sorted(n for n in os.listdir(folder) if not n.endswith(".json"))


def entries(folder):
    return entries_of(folder / SIDECAR)


def test_the_newest_and_the_best_stay(tmp_path):
    run = Saver(tmp_path)
    for epoch, value in enumerate([0.5, 0.2, 0.4, 0.3, 0.6]):
        run.save(epoch, value=value)
        run.retain(keep_last=2, keep_best=1)

    assert names(tmp_path) == ["w_1.bin", "w_3.bin", "w_4.bin"]
    assert [e[0]["order"] for e in entries(tmp_path).values()] == [1, 2, 3, 4, 5]
    assert run.retain(keep_last=1).deleted == tuple(
        str(tmp_path / n) for n in ("w_1.bin", "w_3.bin")
    )
    run.save(5)
    assert run.files.sidecar(str(tmp_path)).names() == ["w_4.bin", "w_5.bin"]


def test_only_files_that_are_as_they_were_written_are_deleted(tmp_path):
    run = Saver(tmp_path)
    run.save(0, 1, 2, 3, 4, 5)
    changed = tmp_path / "w_0.bin"
    status = changed.stat()
    changed.write_bytes(data(9))  # the same size and time: only the checksum knows
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert changed.stat().st_size == len(data(0))
    (tmp_path / "w_1.bin").write_bytes(b"shorter")
    (tmp_path / "w_2.bin").unlink()
    os.rename(tmp_path / "w_3.bin", tmp_path / "mine.bin")
    (tmp_path / "w_3.bin").symlink_to("mine.bin")
    (tmp_path / "w_77.bin").write_bytes(b"never ours")

    done = run.retain(keep_last=1)

    assert (done.deleted, done.failures) == ((str(tmp_path / "w_4.bin"),), None)
    assert names(tmp_path) == ["mine.bin", "w_0.bin", "w_1.bin", "w_3.bin", "w_5.bin", "w_77.bin"]


def test_a_file_that_is_not_there_takes_no_place(tmp_path):
    run = Saver(tmp_path)
    run.save(0, 1, 2, 3)
    (tmp_path / "w_3.bin").unlink()
    (tmp_path / "w_2.bin").write_bytes(b"somebody else's now")

    run.retain(keep_last=1)

    assert names(tmp_path) == ["w_1.bin", "w_2.bin"]


def test_protected_paths_stay_however_they_are_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Saver(tmp_path)
    run.save(0, 1, 2, 3)
    run.retain(keep_last=1, protect=["./w_1.bin", str(tmp_path / "w_0.bin")])

    assert names(tmp_path) == ["w_0.bin", "w_1.bin", "w_3.bin"]


def test_files_of_earlier_runs_go_only_if_this_one_goes_on_from_them(tmp_path):
    Saver(tmp_path, "r1").save(0, 1, 2)
    run = Saver(tmp_path, "r2")
    run.save(3, 4, goes_on=True)
    run.retain(keep_last=1)
    assert names(tmp_path) == ["w_0.bin", "w_1.bin", "w_2.bin", "w_4.bin"]

    run.retain(keep_last=2, goes_on=True)
    assert names(tmp_path) == ["w_2.bin", "w_4.bin"]


def test_what_was_kept_aside_is_never_touched(tmp_path):
    Saver(tmp_path, "r1").save(0, 1, 2)
    run = Saver(tmp_path, "r2")
    run.save(0, 1, 2)
    run.retain(keep_last=1, goes_on=True)

    assert names(tmp_path) == ["previous", "w_2.bin"]
    assert names(tmp_path / "previous") == ["w_0.bin", "w_1.bin", "w_2.bin"]


def test_a_copied_folder_and_an_old_sidecar_are_read_to_be_known(tmp_path):
    Saver(tmp_path / "a").save(0, 1, 2)
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    path = tmp_path / "b" / SIDECAR
    in_the_first_form(path, "w_{epoch}.bin")
    content = json.loads(path.read_text())
    for listed in content["files"].values():
        for fields in listed:
            for new in ("order", "mtime_ns", "finite"):
                del fields[new]
    path.write_text(json.dumps(content))

    run = Saver(tmp_path / "b")
    run.save(3, goes_on=True)
    assert entries(tmp_path / "b")["w_3.bin"][0]["order"] == 1
    run.retain(keep_last=2, goes_on=True)
    assert names(tmp_path / "b") == ["w_2.bin", "w_3.bin"]


def test_a_folder_for_each_epoch_or_run(tmp_path):
    Saver(tmp_path, "r0", template="{run_id}/{epoch}/w.bin").save(0, 1)
    run = Saver(tmp_path, "r1", template="{run_id}/{epoch}/w.bin")
    run.save(0, 1, 2)
    run.retain(keep_last=1)
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("w.bin"))
    assert left == ["r0/0/w.bin", "r0/1/w.bin", "r1/2/w.bin"]

    run.save(3)
    run.retain(keep_last=2, goes_on=True)
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("w.bin"))
    assert left == ["r1/2/w.bin", "r1/3/w.bin"]


def test_one_folder_does_not_count_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for epoch in range(4):
        folder = CheckpointFolder("{run_id}/w_{epoch}.bin", ".bin", "r1")
        folder.write(
            f"r1/w_{epoch}.bin",
            entry(epoch),
            lambda f, e=epoch: f.write(data(e)),
            goes_on=True,
        )
        folder.retain(KeepLast(2), goes_on=True)

    assert names(tmp_path / "r1") == ["w_2.bin", "w_3.bin"]


def test_unread_files_are_not_read_at_each_save(tmp_path, monkeypatch):
    run = Saver(tmp_path)
    run.save(*range(5))
    read = []
    monkeypatch.setattr(files, "hash_file", read.append)
    done = run.retain(keep_last=2)

    assert (len(done.deleted), read) == (3, [])


def test_what_somebody_made_of_a_file_of_this_run_is_replaced_like_it(tmp_path):
    """A callback that rewrites each file would leave one more beside it at each improvement."""
    run = Saver(tmp_path, template="best.bin")
    run.save(0)
    for epoch in (1, 2, 3):
        (tmp_path / "best.bin").write_bytes(b"smaller, without the optimizer")
        run.save(epoch)

    assert (tmp_path / "best.bin").read_bytes() == data(3)
    assert names(tmp_path) == ["best.bin"]


def test_a_replayed_epoch_replaces_its_entry(tmp_path):
    sidecar = Sidecar(str(tmp_path), "w", "w")
    for epoch, checksum in [(0, "a"), (1, "b"), (1, "c")]:
        sidecar.record("w", with_checksum(entry(epoch), checksum))
    assert [(e.epoch, e.checksum, e.order) for e in sidecar.entries("w")] == [(1, "c", 3)]
    # The file that stands there keeps its entry until the new one has its name.
    standing = sidecar.entries("w")[0]
    sidecar.record("w", with_checksum(entry(1), "d"), standing=standing)
    assert [e.checksum for e in sidecar.entries("w")] == ["d", "c"]


def with_checksum(one, checksum):
    import dataclasses

    return dataclasses.replace(one, checksum=checksum)


def test_metrics_that_are_no_numbers_come_back_as_they_were(tmp_path):
    metrics = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.5}
    Saver(tmp_path).save(0, metrics=metrics)
    before = entries(tmp_path)

    assert entries(tmp_path)["w_0.bin"][0]["metrics"] == {
        "a": "NaN", "b": "Infinity", "c": "-Infinity", "d": 0.5,
    }  # fmt: skip
    back = Sidecar(str(tmp_path), "w_{epoch}.bin", "w_epoch.bin").entry_for("w_0.bin")
    assert repr(back.metrics) == repr(metrics)
    Saver(tmp_path).save(0, metrics=metrics)  # and are written as they were read
    assert before["w_0.bin"][0]["metrics"] == entries(tmp_path)["w_0.bin"][0]["metrics"]


@pytest.mark.parametrize("value", ["NaN", "-Infinity", float("nan"), float("-inf")])
def test_a_value_that_is_no_number_is_nobody_s_best(tmp_path, value):
    Saver(tmp_path).save(0, 1)
    change(tmp_path / SIDECAR, lambda raw: raw | {"value": value if raw["epoch"] == 0 else 0.5})

    best = CheckpointFolder(str(tmp_path / "w_{epoch}.bin"), ".bin", "r2").best(
        "loss", Direction.MIN
    )
    assert best is not None and best[1].epoch == 1


def test_a_sidecar_with_nonsense_in_it_costs_no_file(tmp_path):
    run = Saver(tmp_path)
    run.save(0, 1, 2)
    nonsense = [{"order": "first"}, {"mtime_ns": [], "size": {}}, {"metrics": [0.5]}]
    change(tmp_path / SIDECAR, lambda raw: raw | nonsense[raw["epoch"]])

    done = Saver(tmp_path).retain(keep_last=1)
    assert (done.deleted, names(tmp_path)) == ((), ["w_0.bin", "w_1.bin", "w_2.bin"])


# Failures and kills


def begun(folder):
    Saver(folder).save(0, 1, 2)


def save_and_clean(folder, disk):
    run = Saver(folder, disk=disk)
    run.save(3)
    return run.retain(keep_last=2)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES], ids=errno.errorcode.get)
def test_every_call_of_a_save_and_its_cleaning_fails(tmp_path, error):
    counter = FailingDisk()
    begun(tmp_path / "count")
    save_and_clean(tmp_path / "count", counter)
    failed_saves = failed_cleanings = 0
    for at in range(1, counter.count + 1):
        folder = tmp_path / str(at)
        begun(folder)
        saved = True
        try:
            done = save_and_clean(folder, FailingDisk(at, error))
            failed_cleanings += done.failures is not None
            assert os.path.exists(folder / "w_3.bin")
        except OSError:
            saved = False
            failed_saves += 1
            assert names(folder) == ["w_0.bin", "w_1.bin", "w_2.bin"]
        check(folder)
        run = Saver(folder)
        run.files.sweep()
        assert not hidden(folder)
        run.save(3 + saved)
        run.retain(keep_last=2)
        assert names(folder) == [f"w_{n + saved}.bin" for n in (2, 3)]
    assert failed_saves > 15 and failed_cleanings >= 5


def check(folder):
    """Every file is whole, and the sidecar's entry for it is true: nothing became a stranger's."""
    sidecar = Sidecar(str(folder), "w_{epoch}.bin", "w_epoch.bin")
    for name in names(folder):
        if name in hidden(folder):
            continue
        epoch = int(name.removeprefix("w_").removesuffix(".bin"))
        assert (folder / name).read_bytes() == data(epoch)
        found = sidecar.entry_for(name)
        assert found is not None and found.epoch == epoch, name


def test_kill_9_before_every_call_of_a_save_and_its_cleaning(tmp_path):
    at, died, seen = 0, True, set()
    while died:
        at += 1
        folder = tmp_path / str(at)
        begun(folder)
        died = killed(lambda disk, f=folder: save_and_clean(f, disk), at)
        check(folder)
        there = [n for n in names(folder) if n not in hidden(folder)]
        seen.add(tuple(there))
        assert {"w_2.bin"} <= set(there)
        assert "w_3.bin" in there or len(there) == 3, "nothing goes before the next one is there"
        run = Saver(folder)
        run.files.sweep()
        assert not hidden(folder)
        run.save(4)
        run.retain(keep_last=2)
        assert len(names(folder)) == 2
    assert len(seen) == 4 and at > 40


def test_nothing_goes_before_the_next_one_is_durable(tmp_path):
    """Read off the calls: the flush of the folder stands between the rename and the first deletion."""

    class Log(WatchedDisk):
        calls = []

        def after(self, name, arguments, result):
            if name in ("rename", "sync"):
                self.calls.append(f"{name} {arguments[0]}")

    begun(tmp_path)
    save_and_clean(tmp_path, Log())
    renamed = next(i for i, c in enumerate(Log.calls) if c.startswith("rename .w_3.bin"))
    gone = next(i for i, c in enumerate(Log.calls) if c.startswith("rename w_0.bin"))
    assert any(c.startswith("sync") for c in Log.calls[renamed:gone])


def test_what_cannot_be_deleted_is_told(tmp_path):
    begun(tmp_path)
    disk = FailingDisk()
    run = Saver(tmp_path, disk=disk)
    run.save(3)
    disk.at, disk.error, disk.count, disk.calls = 1, errno.EACCES, 0, {"rename"}
    done = run.retain(keep_last=2)

    assert done.failures == {str(tmp_path / "w_0.bin"): "Permission denied"}
    assert done.deleted == (str(tmp_path / "w_1.bin"),)
    with contextlib.suppress(OSError):
        disk.count, disk.calls = 0, {"open_root"}
        assert "w_0.bin" in str(run.retain(keep_last=2).failures)
