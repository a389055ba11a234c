"""Names as long as the file system takes them, and placeholders of metrics as people name them."""

import os
import re

import numpy as np
import pytest

import peakhold
from loops.log_runs import Logged, column
from peakhold.errors import InvalidArgumentError, SaveError
from peakhold.tensorboard import Embedding, write_projector

SUFFIX = ".safetensors"


def save(filepath, *values, name="loss", run=1, **arguments):
    """One run that saves after each epoch."""
    weights = {"w": np.zeros(2)}
    saver = peakhold.ModelCheckpoint(filepath, name, on_save_error="raise", **arguments)
    host = peakhold.LoopHost(get_state=lambda: weights, set_state=weights.update)
    loop = peakhold.CallbackList([saver], host=host, epochs=9, verbose=0)
    loop.on_train_begin()
    for epoch, value in enumerate(values):
        weights["w"] += run
        loop.on_epoch_begin(epoch)
        loop.on_epoch_end(epoch, {name: value})
    loop.on_train_end()
    return saver


def models(folder):
    return sorted(name for name in os.listdir(folder) if name.endswith(SUFFIX))


def of_size(size, letter):
    """A name of so many bytes, the suffix included."""
    length = (size - len(SUFFIX)) // len(letter.encode())
    return letter * length + SUFFIX


LONG = [of_size(size, "n") for size in (217, 218, 219, 231, 232, 233, 241, 242, 255)]
LONG += [of_size(79 * 3 + len(SUFFIX), "名"), of_size(255, "名")]


@pytest.mark.parametrize("name", LONG, ids=lambda name: f"{name[0]!r}-{len(name.encode())}")
def test_a_name_near_the_limit_is_saved_replaced_and_kept_aside(tmp_path, name):
    for run in (1, 2):
        saver = save(tmp_path / name, 0.5, 0.4, run=run, save_best_only=True)
        assert saver.best_path == str(tmp_path / name)
    kept = [
        path
        for path in tmp_path.rglob(f"*{SUFFIX}")
        if path.name != name or path.parent != tmp_path
    ]
    assert len(kept) == 1, "the first run's"
    resumed = peakhold.ModelCheckpoint(tmp_path / name, "loss", save_best_only=True)
    host = peakhold.LoopHost(get_state=lambda: {"w": np.ones(2)}, set_state=print)
    loop = peakhold.CallbackList([resumed], host=host, epochs=9, verbose=0)
    loop.on_train_begin()
    loop.on_epoch_begin(2)
    loop.on_epoch_end(2, {"loss": 0.9})
    loop.on_train_end()
    assert (resumed.best, resumed.best_epoch) == (0.4, 1), "its sidecar is found"
    assert not [entry for entry in os.listdir(tmp_path) if entry.startswith(".")]


def test_two_long_names_that_begin_alike_have_a_sidecar_each(tmp_path):
    for end in "ab":
        save(tmp_path / (of_size(254, "n").removesuffix(SUFFIX) + end + SUFFIX), 0.5)

    assert len([name for name in os.listdir(tmp_path) if name.endswith(".json")]) == 2


def test_a_name_beyond_the_limit_is_refused_before_the_first_batch(tmp_path):
    with pytest.raises(SaveError, match="File name too long"):
        save(tmp_path / of_size(256, "n"))


@pytest.mark.parametrize("size", [200, 219, 240, 255])
def test_a_log_with_a_long_name(tmp_path, size):
    path = tmp_path / ("l" * size)
    Logged(path).epochs(0.5).epochs(0.4, late=1.0).end()

    assert column(path) == ["0.5", "0.4"]


def test_a_layer_with_a_long_name_is_projected(tmp_path):
    write_projector(str(tmp_path), [Embedding("e" * 300, np.eye(2), None)])

    (name,) = os.listdir(tmp_path / "embeddings")
    assert f'"embeddings/{name}"' in (tmp_path / "projector_config.pbtxt").read_text()


def test_layers_whose_names_look_alike_in_a_file_s_name_have_a_file_each(tmp_path):
    names = ["a/b", "a_b", "A_b", "a b", "a_b-2", "e" * 300, "e" * 299 + "/"]
    for turn in (1, 2):  # the same files again
        values = [np.full((2, 2), turn * number, "f4") for number in range(len(names))]
        shown = [Embedding(name, value) for name, value in zip(names, values, strict=True)]
        write_projector(str(tmp_path), shown)
        text = (tmp_path / "projector_config.pbtxt").read_text()
        paths = re.findall(r'tensor_path: "(.*)"', text)
        assert len({path.lower() for path in paths}) == len(names)
        assert len(os.listdir(tmp_path / "embeddings")) == len(names)
        for path, value in zip(paths, values, strict=True):
            content = (tmp_path / path).read_bytes()
            assert content == value.tobytes() or np.array_equal(np.loadtxt(tmp_path / path), value)


# Placeholders


@pytest.mark.parametrize(
    ("place", "metric", "value", "name"),
    [
        ("{val_recall@10:.2f}", "val_recall@10", 0.125, "0.12"),
        ("{acc(%)}", "acc(%)", 12.5, "12.5"),
        ("{5_way_acc}", "5_way_acc", 0.5, "0.5"),
        ("{val/loss:.3f}", "val/loss", 0.5, "0.500"),
        ("{top-5 acc:.1f}", "top-5 acc", 0.5, "0.5"),
        ("{F1 (macro)=:.1f}", "F1 (macro)=", 0.5, "0.5"),
        ("{größe:.1f}", "größe", 0.5, "0.5"),
        ("{count:d}", "count", 7, "7"),
        ("{count:03d}", "count", 7, "007"),
        ("{loss:.2e}", "loss", 0.5, "5.00e-01"),
        ("{loss!s:.3}", "loss", 0.125, "0.1"),
    ],
)
def test_names_of_metrics_work_as_in_keras(tmp_path, place, metric, value, name):
    assert place.format(**{metric: value}) == name, "what Keras makes of it"
    saver = save(f"{tmp_path}/w_{place}{SUFFIX}", value, name=metric, keep_last=2)

    assert models(tmp_path) == [f"w_{name}{SUFFIX}"]
    assert saver.latest_path == f"{tmp_path}/w_{name}{SUFFIX}"
    assert [entry for entry in tmp_path.iterdir() if entry.is_dir()] == []


def test_a_slash_in_a_placeholder_parts_no_folders(tmp_path):
    saver = save(
        f"{tmp_path}/{{val/loss:.1f}}/w_{{val/loss:.3f}}{SUFFIX}",
        0.5,
        0.25,
        name="val/loss",
        keep_last=1,
    )

    assert saver.latest_path == f"{tmp_path}/0.2/w_0.250{SUFFIX}"
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob(f"*{SUFFIX}")] == [
        f"0.2/w_0.250{SUFFIX}"
    ]


@pytest.mark.parametrize(
    "place",
    ["{epoch:.2d}", "{epoch:q}", "{val_loss:d}", "{loss:03d}", "{val_acc:x}", "{acc:.2y}",
     "{run_id:03d}", "{timestamp:.2f}", "{epoch!r:d}", "{0}", "{a.b}", "{a[0]}"],
)  # fmt: skip
def test_a_bad_format_is_an_error_at_construction(place):
    with pytest.raises(InvalidArgumentError, match="filepath") as told:
        peakhold.ModelCheckpoint(f"w_{place}{SUFFIX}")

    assert place in str(told.value)


def test_a_format_that_the_first_value_does_not_fit_is_an_error(tmp_path):
    """Whether a metric of one's own counts is known when it is there."""
    with pytest.raises(InvalidArgumentError, match=r"\{share:d\}.*0.5"):
        save(f"{tmp_path}/w_{{share:d}}{SUFFIX}", 0.5, name="share")

    assert os.listdir(tmp_path) == []
