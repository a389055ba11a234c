"""Paths that name another machine: one answer for all that writes, before anything is written."""

import os
import pathlib

import pytest

import peakhold
from peakhold.errors import InvalidArgumentError
from peakhold.store import Reader, Store
from peakhold.tensorboard import Embedding, EventWriter, write_projector

WRITERS = {
    "ModelCheckpoint": lambda path: peakhold.ModelCheckpoint(path + "/w.safetensors"),
    "CSVLogger": lambda path: peakhold.CSVLogger(path + "/log.csv"),
    "TensorBoard": peakhold.TensorBoard,
    "BackupAndRestore": peakhold.BackupAndRestore,
    "Store": Store,
    "Reader": Reader,
    "EventWriter": EventWriter,
    "write_projector": lambda path: write_projector(path, [Embedding("e", [[1.0]], None)]),
}
SCHEMES = [
    "gs://bucket",
    "s3://bucket/run",
    "ram://run",
    "abfss://c@a.b.net",
    "file:///runs/x",
    "S3://b",
]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", WRITERS)
def test_another_machine_is_refused_and_no_folder_is_made(name, scheme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InvalidArgumentError, match="a path on this machine, got .*\\nHint: "
    ) as told:
        WRITERS[name](scheme)

    assert scheme in str(told.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "cls", [peakhold.TensorBoard, peakhold.BackupAndRestore, peakhold.CSVLogger, Store]
)
def test_so_it_is_when_a_path_object_has_lost_a_slash(cls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgumentError, match="a path on this machine"):
        cls(pathlib.Path("gs://bucket/run"))

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", ["./gs:/run", "a:b/c", "runs/12:30/x", "x://y", ":/x", "C:/runs"])
def test_a_colon_is_a_letter_like_others(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert peakhold.TensorBoard(path).log_dir == path
    with Store(path):
        pass
    assert os.path.isdir(path)


def test_the_differences_from_keras_say_it():
    page = pathlib.Path(__file__).parents[2] / "docs/explanation/differences-from-keras.md"
    line = next(one for one in page.read_text("utf-8").split("\n- ") if "gs://" in one)
    assert all(name in line for name in ("s3://", "ram://", "TensorBoard", "this machine"))
