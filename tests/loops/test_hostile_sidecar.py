"""A sidecar that is damaged, or an enemy's: training ends well, no file is lost, one warning says it."""

import contextlib
import errno
import os
import shutil
import socket
import warnings

import numpy as np
import pytest

import hostile_sidecars
from hostile_sidecars import CASES, SIDECAR
from peakhold import CallbackList, LoopHost, ModelCheckpoint
from peakhold.checkpoint_files.folder import CheckpointFolder
from peakhold.disk.disk import Disk
from peakhold.errors import SaveError, SaveWarning
from sidecar_lines import entries_of

EPOCHS = 4
USERS = {
    "afresh": {"begin": 0, "keep_last": 1},
    "goes on, best": {"begin": 2, "save_best_only": True},
    "goes on, last": {"begin": 2, "keep_last": 2},
    "goes on, best few": {"begin": 2, "keep_best": 2},
}
SILENT = {
    # Nothing of it is used: another template's, a word for people, or what old sidecars lack.
    *(f"template_{one}" for one in ("text", "empty", "megabyte", "surrogate", "nul")),
    *(f"over_{one}" for one in hostile_sidecars.ANY if one != "deep"),
    *(f"{field}_{one}" for field in ("monitor", "run_id", "saved_at")
      for one in ("text", "empty", "megabyte", "surrogate", "nul")),
    "batch_none", "batch_missing", "metrics_missing", "metrics_surrogate_inside", "versions_missing",
    "order_missing", "mtime_ns_none", "mtime_ns_missing", "mtime_ns_negative", "finite_missing",
    "finite_true", "mode_none", "value_none", "value_negative", "value_half",
    # Names that a file in the folder could have.
    "name_text", "name_megabyte", "name_itself", "name_aside", "name_folder", "name_bidi",
    "name_half_a_letter", "name_long", "name_escape", "name_line",
    # What a kill or a power cut leaves, and what means the same.
    "bytes_empty", "bytes_cut", "bytes_nuls_behind", "lines_one_cut", "lines_one_missing",
    "lines_backwards", "lines_duplicate_keys", "bytes_bom", "bytes_windows_lines",
}  # fmt: skip


def train(folder, epochs=EPOCHS, *, begin=0, loss=1.0, **arguments):
    params = {"w": np.zeros(3)}
    host = LoopHost(get_state=lambda: params, set_state=params.update)
    saver = ModelCheckpoint(folder / "w-{epoch}.safetensors", "loss", **arguments)
    callbacks = CallbackList(saver, host=host, verbose=0)
    callbacks.on_train_begin()
    for epoch in range(begin, epochs):
        callbacks.on_epoch_begin(epoch)
        params["w"] += 1 + epoch + 10 * begin
        callbacks.on_epoch_end(epoch, {"loss": loss / (epoch + 1)})
    callbacks.on_train_end()
    return saver


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two files of an earlier run, and some outside the folder that are called the same."""
    base = tmp_path_factory.mktemp("base") / "work"
    (base / "runs").mkdir(parents=True)
    train(base / "runs", 2)
    for name in ("w-1", "w-9"):
        shutil.copy(base / "runs" / "w-1.safetensors", base / f"{name}.safetensors")
    return base


@pytest.fixture
def work(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "work")


def told_by(run, *arguments, **more):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = run(*arguments, **more)
    return result, [(one.category, str(one.message)) for one in told]


@pytest.mark.parametrize("case", CASES)
def test_training_ends_well_and_one_warning_names_the_sidecar(saved, tmp_path, case):
    before = contents(saved / "runs")
    models = [data for path, data in before.items() if path.suffix == ".safetensors"]
    outside = {path: data for path, data in contents(saved).items() if path.parts[0] != "runs"}
    for user, arguments in USERS.items():
        work = shutil.copytree(saved, tmp_path / user)
        CASES[case](work / "runs")

        saver, told = told_by(train, work / "runs", **arguments)

        assert saver.latest_path == saver.best_path or not arguments.get("save_best_only")
        after = contents(work / "runs")
        assert {path: data for path, data in contents(work).items() if path in outside} == outside
        assert (work / "runs" / "w-4.safetensors").exists(), user
        if user in ("afresh", "goes on, best"):  # the others may delete what the sidecar proves
            assert set(models) <= set(after.values()), user
        expected = [] if case in SILENT else [SaveWarning]
        assert [category for category, _ in told] == expected, (user, told)
        for _, text in told:
            assert SIDECAR in text and "is written anew" in text and "stay" in text
        entries = entries_of(work / "runs" / SIDECAR)  # it can be read again, by anybody
        assert "w-4.safetensors" in entries, user
        _, told = told_by(train, work / "runs", EPOCHS + 1, **{**arguments, "begin": EPOCHS})
        assert not told or case == "bytes_nuls_behind", "it is said once"


def test_what_is_behind_a_damaged_first_line_counts(work):
    sidecar = work / "runs" / SIDECAR
    sidecar.write_bytes(sidecar.read_bytes().replace(b'"format"', b'"farmot"'))

    saver, told = told_by(train, work / "runs", 1, save_best_only=True, loss=9.0, begin=0)
    assert len(told) == 1 and "its first line" in told[0][1]

    sidecar.write_bytes(sidecar.read_bytes().replace(b'"format"', b'"farmot"'))
    saver, told = told_by(train, work / "runs", 3, begin=2, save_best_only=True, loss=90.0)

    assert len(told) == 1 and "its first line" in told[0][1]
    assert not (work / "runs" / "w-3.safetensors").exists()  # it is worse than what is known
    assert saver.best == 9.0 and saver.best_path == str(work / "runs" / "w-1.safetensors")


# What is no file, or not for us


def _folder(path):
    path.mkdir()


def _loop(path):
    path.symlink_to(path.name)


def _socket(path):
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def _later_form(path):
    path.write_text('{"format": 3, "shape": "unknown"}\n{"w-1.safetensors": true}\n')


IN_ITS_PLACE = {
    "a directory": _folder,
    "a FIFO": os.mkfifo,
    "a link": _loop,
    "a socket": _socket,
    "format 3": _later_form,
}


@pytest.mark.parametrize("what", IN_ITS_PLACE)
def test_what_can_be_no_sidecar_is_an_error_before_the_first_batch(work, what):
    sidecar = work / "runs" / SIDECAR
    sidecar.unlink()
    IN_ITS_PLACE[what](sidecar)
    before = contents(work), sorted(work.rglob("*"))
    for arguments in USERS.values():
        with pytest.raises(SaveError, match="expected a sidecar") as caught:
            train(work / "runs", **arguments)

        assert caught.value.path == str(sidecar) and what in str(caught.value)
        assert "\nHint: move it away" in str(caught.value)
    assert (contents(work), sorted(work.rglob("*"))) == before


@pytest.mark.parametrize("error", [errno.EACCES, errno.ESTALE, errno.EIO, errno.EMFILE])
def test_a_sidecar_that_cannot_be_opened_is_an_error_before_the_first_batch(work, error):
    class Refuses(Disk):
        def open_log(self, name, at):
            raise OSError(error, os.strerror(error), name)

    template = str(work / "runs" / "w-{epoch}.safetensors")
    folder = CheckpointFolder(template, ".safetensors", "r1", disk=Refuses())
    before = contents(work)

    with pytest.raises(SaveError, match=os.strerror(error)) as caught:
        folder.check(None)

    assert caught.value.path == str(work / "runs" / SIDECAR)
    assert contents(work) == before


def test_a_link_that_leads_nowhere_is_a_place_for_a_sidecar(work):
    sidecar = work / "runs" / SIDECAR
    sidecar.rename(work / "elsewhere.json")
    sidecar.symlink_to(work / "elsewhere.json")
    (work / "elsewhere.json").unlink()

    _, told = told_by(train, work / "runs", begin=2)

    assert not told and sidecar.is_symlink()
    assert sorted(entries_of(work / "elsewhere.json")) == ["w-3.safetensors", "w-4.safetensors"]


# In mid-run, by somebody else


@pytest.mark.parametrize(
    "case", ["value_huge", "bytes_nuls", "mtime_ns_text", "name_up", "lines_one_cut"]
)
def test_a_sidecar_that_is_damaged_in_mid_run_is_told_and_written_anew(tmp_path, case):
    params = {"w": np.zeros(3)}
    host = LoopHost(get_state=lambda: params, set_state=params.update)
    saver = ModelCheckpoint(tmp_path / "w-{epoch}.safetensors", "loss", keep_last=2)
    callbacks = CallbackList(saver, host=host, verbose=0)

    def run():
        callbacks.on_train_begin()
        for epoch in range(EPOCHS):
            callbacks.on_epoch_begin(epoch)
            params["w"] += 1
            callbacks.on_epoch_end(epoch, {"loss": 1.0})
            saver.wait()
            if epoch == 1:
                CASES[case](tmp_path)
                os.replace(shutil.copy(tmp_path / SIDECAR, tmp_path / "x"), tmp_path / SIDECAR)
        callbacks.on_train_end()

    _, told = told_by(run)

    assert [category for category, _ in told] == ([] if case in SILENT else [SaveWarning])
    assert {"w-3.safetensors", "w-4.safetensors"} <= set(os.listdir(tmp_path))
    assert set(entries_of(tmp_path / SIDECAR)) >= {"w-3.safetensors", "w-4.safetensors"}


def test_a_deep_stack_of_the_caller_s_is_no_damage(work):
    """A sidecar is as good as the room that is left to read it."""

    def deep(n):
        return train(work / "runs", begin=2, keep_last=2) if n == 0 else deep(n - 1)

    _, told = told_by(deep, 300)

    assert not told
    assert not (work / "runs" / "w-1.safetensors").exists()
