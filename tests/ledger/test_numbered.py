"""Folders that `production_callbacks` lays out are read, too: runs under numbers."""

import os

import pytest

from peakhold.files.one_file import make_folder
from peakhold.ledger import RunFolder
from peakhold.store import Store
from store_support import quietly, state


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def make(folder, *names):
    for name in names:
        path = folder.at(name)
        make_folder(os.path.dirname(path))
        if name.endswith("/"):
            make_folder(path.rstrip("/"))
        else:
            with open(path, "wb"):
                pass


def test_the_runs_are_told_by_their_numbers(folder):
    make(folder, "best-1.keras", "log-1.csv", "tensorboard/run-1/", "best-10.keras", "backup-10/",
         "log-2.csv", "best-0.keras", "best-x.keras", "best-99999999999999999999.keras")  # fmt: skip

    runs = folder.numbered()

    assert [run.number for run in runs] == [1, 2, 10]
    assert runs[0].kinds == {"best", "log", "tensorboard"}
    assert runs[0].log == folder.at("log-1.csv") and runs[2].backup == folder.at("backup-10")


def test_a_run_without_a_backup_has_ended(folder):
    make(folder, "best-1.keras", "log-1.csv")

    assert str(folder.status()) == "ended"


def test_a_run_with_one_was_interrupted_or_is_running(folder):
    make(folder, "best-1.keras", "log-1.csv")
    with Store(folder.at("backup-1")) as store:
        store.save(1, state(1)).result()
        assert str(folder.status()) == "running"
    assert str(folder.status()) == "interrupted"


def test_a_run_that_never_trained_was_interrupted(folder):
    make(folder, "backup-1/")

    assert str(folder.status()) == "interrupted"


def test_its_history_is_that_of_the_newest_log(folder):
    make(folder, "log-1.csv", "log-2.csv")
    with open(folder.at("log-2.csv"), "wb") as file:
        file.write(b"epoch,loss,val_loss\n0,0.5,NA\n1,nan,0.25\nnote,1,2\n2,0.1")

    past = folder.history()

    assert past.epoch == [0, 1] and past.step == [None, None]
    assert str(past.history) == "{'loss': [0.5, nan], 'val_loss': [None, 0.25]}"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0", b"a,b\n1,2\n", b"\0" * 1000])
def test_a_log_that_is_none_has_no_history(folder, content):
    make(folder, "log-1.csv")
    with open(folder.at("log-1.csv"), "wb") as file:
        file.write(content)

    assert folder.history().epoch == []


def test_the_record_comes_first(folder):
    make(folder, "log-1.csv")
    with folder.own():
        assert str(folder.status()) == "running"
        quietly(make, folder, "events.jsonl")
        assert folder.history().epoch == []
