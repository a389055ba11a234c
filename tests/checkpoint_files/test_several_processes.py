"""One sidecar, and many that write it: other processes, other callbacks, earlier forms."""

import contextlib
import itertools
import json
import multiprocessing
import os
import pathlib
import signal
import time

import pytest

from checkpoint_files.organs import Model
from peakhold._core.monitor import Direction
from peakhold._core.policies.keep import KeepLast
from peakhold.checkpoint_files.folder import CheckpointFolder
from peakhold.files.sidecar import Sidecar
from sidecar_lines import entries_of, in_the_first_form

context = multiprocessing.get_context("fork")


def each_in_a_process(work, *argument_lists):
    """Run at the same time, in processes of their own."""
    gate = context.Barrier(len(argument_lists))

    def run(*arguments):
        gate.wait(60)
        work(*arguments)

    processes = [context.Process(target=run, args=arguments) for arguments in argument_lists]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def model_of(folder, template, worker, run=None):
    return Model(folder, template, run=run or f"r{worker}", worker=worker)


def keeps_two(folder, worker):
    model = model_of(folder, "m-{worker}-{epoch}.safetensors", worker)
    for epoch in range(25):
        outcome = model.save(epoch, 0.5, keep_last=2)
        assert outcome.committed and outcome.trouble is None


def test_two_workers_keep_two_files_each(tmp_path):
    each_in_a_process(keeps_two, (tmp_path, 0), (tmp_path, 1))

    names = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert names == [f"m-{worker}-{epoch}.safetensors" for worker in (0, 1) for epoch in (23, 24)]


def saves_its_best(folder, run):
    model = Model(folder, "best_{run_id}.safetensors", run=run)
    for epoch in range(12):
        model.save(epoch, 0.5 - epoch / 100)


def test_no_entry_is_lost(tmp_path):
    runs = [f"r{number}" for number in range(4)]
    each_in_a_process(saves_its_best, *((tmp_path, run) for run in runs))

    sidecar = Sidecar(str(tmp_path), "best_{run_id}.safetensors", "best_run_id.safetensors")
    for run in runs:
        entry = sidecar.entry_for(f"best_{run}.safetensors")
        assert entry is not None and (entry.epoch, entry.run_id) == (11, run)


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("best_{worker}.safetensors", ["best_0.safetensors", "best_1.safetensors"]),
        ("w{worker:03d}_{epoch}.safetensors", ["w000_epoch.safetensors", "w001_epoch.safetensors"]),
        ("{worker}/best.safetensors", ["0/best.safetensors", "1/best.safetensors"]),
    ],
)
def test_each_worker_has_a_sidecar_of_its_own(tmp_path, template, names):
    for worker in (0, 1):
        model_of(tmp_path, template, worker).save(0, 0.5)

    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.peakhold.json"))
    assert found == [f"{name}.peakhold.json" for name in names]


def test_a_sidecar_of_all_workers_is_gone_on_from(tmp_path):
    """As earlier versions wrote it: each worker finds its own best in it, and keeps it."""
    template = "m-{worker}-{epoch}.safetensors"
    for worker, epoch in itertools.product((0, 1), range(3)):
        model_of(tmp_path, template, worker).save(epoch, 0.5 - (epoch == 1) / 10 - worker / 5)
    own = sorted(tmp_path.glob("m-?-epoch.*"))
    lines = [path.read_text().splitlines(keepends=True) for path in own]
    of_all = tmp_path / "m-worker-epoch.safetensors.peakhold.json"
    of_all.write_text("".join([lines[0][0], *(line for each in lines for line in each[1:])]))
    for path in own:
        path.unlink()

    for worker in (0, 1):
        model = model_of(tmp_path, template, worker, "r9")
        path, saved = model.folder.best("loss", Direction.MIN)
        assert (os.path.basename(path), saved.value) == (
            f"m-{worker}-1.safetensors", pytest.approx(0.4 - worker / 5),
        )  # fmt: skip
        model.save(3, 0.5, goes_on=True)
        model.folder.retain(KeepLast(2), goes_on=True)
        again = model_of(tmp_path, template, worker, "r10").folder
        assert again.newest().endswith(f"m-{worker}-3.safetensors")

    names = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert names == [f"m-{worker}-{epoch}.safetensors" for worker in (0, 1) for epoch in (2, 3)]


def saves_under_one_name(folder, worker):
    model = Model(folder, "best.safetensors", run=f"r{worker}")
    for epoch in range(15):
        model.weights["w"][:] = epoch + worker / 10
        assert model.save(epoch, 0.5).committed


def test_of_one_name_the_last_one_wins_and_is_known(tmp_path):
    """Whose it is can be told of every file that was there; nothing became a stranger's."""
    each_in_a_process(saves_under_one_name, *((tmp_path, worker) for worker in range(3)))

    sidecar = Sidecar(str(tmp_path), "best.safetensors", "best.safetensors")
    assert sidecar.entry_for("best.safetensors") is not None
    for path in (tmp_path / "previous").glob("*"):
        assert sidecar.entry_for(f"previous/{path.name}") is not None, path.name
    assert len(list((tmp_path / "previous").glob("*"))) <= 1


def test_a_killed_process_leaves_no_lock(tmp_path):
    sidecar = Sidecar(str(tmp_path), "w", "w")
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException), sidecar.locked():
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(0)
    os.waitpid(pid, 0)
    began = time.monotonic()
    with sidecar.locked():
        pass
    assert time.monotonic() - began < 5


# Whose best is it?


@pytest.mark.parametrize(
    ("template", "own", "other"),
    [
        ("best_{worker}.safetensors", {"worker": 0}, {"worker": 1}),
        ("{worker}/best.safetensors", {"worker": 0}, {"worker": 1}),
        ("best_{run_id}.safetensors", {"run": "r0"}, {"run": "r1"}),
        ("{run_id}/best.safetensors", {"run": "r0"}, {"run": "r1"}),
        ("{run_id}/{worker}-{epoch}.safetensors", {"worker": 1}, {"worker": 11}),
    ],
)
def test_a_resume_takes_only_its_own_best(tmp_path, template, own, other):
    def whose(worker=0, run="r"):
        return model_of(tmp_path, template, worker, run), worker

    model, worker = whose(**other)
    model.save(0, 0.1)
    assert whose(**own)[0].folder.best("loss", Direction.MIN) is None
    model, worker = whose(**own)
    model.save(1, 0.4)

    path, saved = whose(**own)[0].folder.best("loss", Direction.MIN)
    assert (saved.value, os.path.exists(path)) == (0.4, True)
    assert whose(**other)[0].folder.best("loss", Direction.MIN)[1].value == 0.1


def test_a_worker_that_goes_on_deletes_no_other_worker_s_files(tmp_path):
    template = "m-{worker}-{epoch}.safetensors"
    for worker, epoch in itertools.product((0, 1), range(3)):
        model_of(tmp_path, template, worker).save(epoch, 0.5)
    model = model_of(tmp_path, template, 0, "r9")
    model.save(3, 0.5, goes_on=True)
    model.folder.retain(KeepLast(1), goes_on=True)

    names = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert names == ["m-0-3.safetensors", *(f"m-1-{epoch}.safetensors" for epoch in range(3))]


@pytest.mark.parametrize("first_form", [False, True])
def test_templates_that_differ_in_their_formats_leave_each_other_alone(tmp_path, first_form):
    one, other = "w_{epoch}.safetensors", "w_{epoch:03d}.safetensors"
    for epoch in range(3):
        model_of(tmp_path, one, 0).save(epoch, 0.5)
    if first_form:
        in_the_first_form(tmp_path / "w_epoch.safetensors.peakhold.json", one)
    for epoch in range(3):
        model_of(tmp_path, other, 0).save(epoch, 0.4)
    model_of(tmp_path, one, 0).save(3, 0.5)

    for template, n_files, value in ((one, 4, 0.5), (other, 3, 0.4)):
        folder = model_of(tmp_path, template, 0).folder
        names = folder.sidecar(str(tmp_path)).names()
        assert len(names) == n_files and all(
            folder.sidecar(str(tmp_path)).entry_for(n) for n in names
        )
        assert folder.best("loss", Direction.MIN)[1].value == value


# What it costs, and what it looks like


def test_a_save_costs_as_much_as_the_first_however_many_there_are(tmp_path, monkeypatch):
    """Bytes that are written for the sidecar, and bytes that are read from it."""
    model, moved = model_of(tmp_path, "w_{epoch}.safetensors", 0), []
    write, read = os.write, os.preadv
    monkeypatch.setattr(os, "write", lambda fd, data: moved.append(write(fd, data)) or moved[-1])
    monkeypatch.setattr(os, "preadv", lambda *a: moved.append(read(*a)) or moved[-1])
    costs = []
    for epoch in range(400):
        moved.clear()
        model.save(epoch, 0.5)
        costs.append(sum(moved))

    assert max(costs[2:]) < costs[1] * 1.2


def test_it_does_not_grow_with_what_was_deleted_or_replaced(tmp_path):
    for template, more in (("w_{epoch}.safetensors", {"keep_last": 2}), ("best.safetensors", {})):
        model = model_of(tmp_path, template, 0)
        for epoch in range(500):
            model.save(epoch, 0.5, **more)
    for path in tmp_path.glob("*.peakhold.json"):
        assert len(path.read_text().splitlines()) < 100
        assert len(entries_of(path)) <= 71


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_line_costs_no_other(tmp_path, cut):
    model = model_of(tmp_path, "w_{epoch}.safetensors", 0)
    for epoch in range(3):
        model.save(epoch, 0.5)
    path = tmp_path / "w_epoch.safetensors.peakhold.json"
    path.write_bytes(path.read_bytes()[:-cut])
    later = model_of(tmp_path, "w_{epoch}.safetensors", 0, "r1")
    later.save(3, 0.5)
    later.save(4, 0.5)

    sidecar = Sidecar(str(tmp_path), "w_{epoch}.safetensors", "w_epoch.safetensors")
    known = [n for n in range(5) if sidecar.entry_for(f"w_{n}.safetensors") is not None]
    assert known == ([0, 1, 2, 3, 4] if cut == 1 else [0, 1, 3, 4])


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 99, b"[" * 99_999, b'{"format": null}\n{"a": 1}\n', (b'{"format": 2}\n[[[\n{}\n1e999\n'
     b'{"name": "w_0.safetensors", "epoch": 1e400}\n'), b'{"format": 1, "files": {"w": 3, "v": [[]]}}'],
)  # fmt: skip
def test_a_damaged_or_hostile_sidecar_costs_knowledge_and_no_save(tmp_path, content):
    (tmp_path / "w_epoch.safetensors.peakhold.json").write_bytes(content)
    model = model_of(tmp_path, "w_{epoch}.safetensors", 0)
    assert model.folder.best("loss", Direction.MIN) is None
    for epoch in range(3):
        assert model.save(epoch, 0.5, keep_last=2).trouble is None

    assert len(list(tmp_path.glob("*.safetensors"))) == 2


GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.mark.parametrize("form", [1, 2])
def test_a_sidecar_of_each_form_is_read(form, tmp_path):
    """They were written by the versions of their time, and are never written anew."""
    name = "w_epoch_loss.bin.peakhold.json"
    (tmp_path / name).write_bytes((GOLDEN / f"form-{form}" / name).read_bytes())
    for epoch in range(3):
        (tmp_path / f"w_{epoch}_0.{5 - epoch}.bin").write_bytes(b"model %d" % epoch)
    folder = CheckpointFolder(str(tmp_path / "w_{epoch}_{loss:.1f}.bin"), ".bin", "r1")
    path, best = folder.best("loss", Direction.MIN)

    assert (os.path.basename(path), best.epoch, best.value) == ("w_2_0.3.bin", 2, 0.3)
    assert best.metrics["accuracy"] == float("inf")
    sidecar = folder.sidecar(str(tmp_path))
    assert [sidecar.entry_for(n).order for n in sidecar.names()] == [1, 2, 3]
    with sidecar.locked():  # whoever writes it next writes today's form
        pass
    assert json.loads((tmp_path / name).read_text().splitlines()[0]) == {"format": 2}
    assert len(entries_of(tmp_path / name)) == 3


def test_what_is_set_aside_twice_has_one_entry(tmp_path):
    """A run that was killed before its save has set it aside already."""
    Model(tmp_path, "best.safetensors", run="r1").save(0, 0.5)
    for _ in range(2):
        sidecar = Sidecar(str(tmp_path), "best.safetensors", "best.safetensors")
        assert sidecar.set_aside("best.safetensors", ".safetensors") == "previous/best.safetensors"

    (entry,) = entries_of(tmp_path / "best.safetensors.peakhold.json")["previous/best.safetensors"]

    assert entry["over"] is None and entry["value"] == 0.5
