"""P15, P16: names of files, what fills them, and what they overwrite."""

import os
import re

import pytest

import keras
from conftest import BACKEND
from keras_helpers import Curve, Recorder, epoch_of, saved_weights
from peakhold.errors import InvalidArgumentError
from peakhold.keras import EarlyStopping, ModelCheckpoint

of_no_framework = pytest.mark.torch_is_enough(
    "names of files are Python's; when a metric's name is known is looked at on every backend"
)

KNOWS_METRICS = BACKEND != "tensorflow"
REPLACES = "each save replaces the last"


def files(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".peakhold.json"))


def test_p15_one_name_for_every_epoch_works_as_in_keras_and_is_said_once(
    xy, classifier, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    model, recorder = classifier(), Recorder()
    checkpoint = ModelCheckpoint("my_model.h5", save_best_only=False, save_freq="epoch")
    model.fit(*xy, epochs=4, callbacks=[checkpoint, recorder])
    text = capsys.readouterr().out

    assert files(tmp_path) == ["my_model.h5"]
    assert epoch_of(saved_weights("my_model.h5"), recorder) == 3
    assert text.count(REPLACES) == 1
    (notice,) = [line for line in text.splitlines() if REPLACES in line]
    assert "'my_model.h5'" in notice
    assert "{epoch:02d}" in notice
    assert "save_best_only=True" in notice


@of_no_framework
@pytest.mark.parametrize(
    "arguments",
    [
        {"filepath": "m_{epoch}.h5"},
        {"filepath": "m.h5", "monitor": "loss", "save_best_only": True},
    ],
    ids=["template", "best-only"],
)
def test_p15_is_not_said_of_other_checkpoints(
    xy, classifier, arguments, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    classifier().fit(*xy, epochs=2, callbacks=[ModelCheckpoint(**arguments)])

    assert REPLACES not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        pytest.param(
            "my_model_epoch_{epoch}.h5", {}, ["my_model_epoch_1.h5", "my_model_epoch_2.h5"],
            marks=of_no_framework, id="epoch",
        ),
        pytest.param(
            "w_{epoch:02d}_{val_loss:.4f}.weights.h5",
            {"save_weights_only": True},
            ["w_01_0.6543.weights.h5", "w_02_0.4568.weights.h5"],
            id="metric",
        ),
        # 150 batches an epoch: after 100, 200, 300 of them.
        pytest.param(
            "b_{batch}.keras", {"save_freq": 100}, ["b_100.keras", "b_150.keras", "b_50.keras"],
            id="batch",
        ),
        pytest.param(
            "models/best_{epoch:02d}_{val_accuracy:.4f}.keras",
            {"monitor": "val_accuracy", "save_best_only": True},
            ["best_01_0.5000.keras", "best_02_0.8125.keras"],
            marks=of_no_framework, id="best",
        ),
        pytest.param(
            "{epoch}-{loss:.3e}-{val_accuracy!s:>8}-{{x}}.keras",
            {},
            None,
            id="formats",
        ),
    ],
)  # fmt: skip
def test_p16_names_are_those_of_keras(xy, classifier, name, arguments, expected, tmp_path):
    """Both classes save in the same run; each file holds what it says."""
    x, y = [part.repeat(2, axis=0)[:150] for part in xy]
    folders = [tmp_path / "ours", tmp_path / "keras"]
    kinds = (ModelCheckpoint, keras.callbacks.ModelCheckpoint)
    savers = [
        kind(str(folder / name), **arguments) for kind, folder in zip(kinds, folders, strict=True)
    ]
    recorder = Recorder()
    curve = Curve(val_loss=[0.65432, 0.45678], val_accuracy=[0.5, 0.8125])
    model = classifier()
    model.fit(
        x, y, validation_data=xy, batch_size=1, epochs=2,
        callbacks=[curve, *savers, recorder], verbose=0,
    )  # fmt: skip
    folders = [folder / os.path.dirname(name) for folder in folders]
    mine, keras_own = map(files, folders)

    assert mine == keras_own
    assert expected is None or mine == expected
    for file in mine:
        one, other = (saved_weights(folder / file, classifier()) for folder in folders)
        assert all((a == b).all() for a, b in zip(one, other, strict=True))


@of_no_framework
def test_p16_our_own_placeholders(xy, classifier, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    template = str(tmp_path / "{run_id}-{timestamp}-{worker}-{epoch}.keras")
    saver = ModelCheckpoint(template)
    for _ in range(2):
        classifier().fit(*xy, epochs=2, callbacks=[saver], verbose=0)
    names = [
        re.fullmatch(r"([0-9a-f]{8})-(\d{8}T\d{6}Z)-3-([12])\.keras", file).groups()
        for file in files(tmp_path)
    ]

    assert len(names) == 4
    runs = {run_id for run_id, _, _ in names}
    assert len(runs) == 2, "another for each fit"
    assert len({(run_id, time) for run_id, time, _ in names}) == 2, "fixed at the start"


@of_no_framework
def test_p16_a_logged_metric_of_that_name_wins(xy, classifier, tmp_path):
    saver = ModelCheckpoint(tmp_path / "{worker}-{epoch}.keras")
    classifier().fit(*xy, epochs=1, callbacks=[Curve(worker=[0.5]), saver], verbose=0)

    assert files(tmp_path) == ["0.5-1.keras"]


@of_no_framework
def test_p16_equal_names_are_announced(xy, classifier, tmp_path, capsys):
    recorder = Recorder()
    saver = ModelCheckpoint(tmp_path / "w_{val_loss:.2f}.keras")
    curve = Curve(val_loss=[0.611, 0.5, 0.612])
    classifier().fit(
        *xy, validation_split=0.25, epochs=3, callbacks=[curve, saver, recorder], verbose=0
    )
    text = capsys.readouterr().out

    assert files(tmp_path) == ["w_0.50.keras", "w_0.61.keras"]
    assert epoch_of(saved_weights(tmp_path / "w_0.61.keras"), recorder) == 2
    (line,) = [line for line in text.splitlines() if "earlier save" in line]
    assert "w_0.61.keras" in line
    assert "{epoch}" in line


@pytest.mark.parametrize(
    ("name", "field"),
    [("w_{val_acc:.4f}.keras", "val_acc"), ("w_{batch}.keras", "batch"), ("w_{acc}.keras", "acc")],
)
@pytest.mark.skipif(not KNOWS_METRICS, reason="TensorFlow builds metrics in the first batch")
def test_p16_what_nothing_will_fill_is_an_error_before_the_first_batch(
    xy, classifier, name, field, tmp_path
):
    model = classifier()
    with pytest.raises(InvalidArgumentError) as caught:
        model.fit(
            *xy, validation_split=0.25, epochs=1, verbose=0,
            callbacks=[ModelCheckpoint(tmp_path / name)],
        )  # fmt: skip

    assert f"{{{field}}} is none of" in str(caught.value)
    assert "val_accuracy" in str(caught.value)
    assert int(model.optimizer.iterations) == 0


@pytest.mark.skipif(not KNOWS_METRICS, reason="TensorFlow builds metrics in the first batch")
def test_p16_a_validation_metric_without_validation_is_an_error_before_the_first_batch(
    xy, classifier, tmp_path
):
    model = classifier()
    with pytest.raises(InvalidArgumentError, match="{val_loss} is none of"):
        model.fit(
            *xy, epochs=1, verbose=0, callbacks=[ModelCheckpoint(tmp_path / "w_{val_loss}.keras")]
        )

    assert int(model.optimizer.iterations) == 0


def test_p16_a_second_fit_knows_on_every_backend(xy, classifier, tmp_path):
    model = classifier()
    model.fit(*xy, epochs=1, verbose=0)
    with pytest.raises(InvalidArgumentError, match="{val_acc} is none of"):
        model.fit(
            *xy, validation_split=0.25, epochs=1, verbose=0,
            callbacks=[ModelCheckpoint(tmp_path / "w_{val_acc}.keras")],
        )  # fmt: skip


def f1(epoch, logs):
    logs["val_f1"] = 0.5 + epoch / 10


class F1(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        f1(epoch, logs)


class F1Stopping(EarlyStopping):
    def on_epoch_end(self, epoch, logs=None):
        f1(epoch, logs)
        super().on_epoch_end(epoch, logs)


@of_no_framework
@pytest.mark.parametrize(
    "author",
    [
        F1,
        lambda: keras.callbacks.LambdaCallback(on_epoch_end=f1),
        lambda: F1Stopping("val_loss", patience=1),
    ],
    ids=["callback", "lambda", "subclass-of-ours"],
)
def test_p16_a_metric_that_a_users_callback_adds_fills_a_name(xy, classifier, author, tmp_path):
    saver = ModelCheckpoint(
        tmp_path / "w_{val_f1:.2f}.keras", monitor="val_f1", save_best_only=True
    )
    classifier().fit(*xy, validation_split=0.25, epochs=2, callbacks=[author(), saver], verbose=0)

    assert files(tmp_path) == ["w_0.50.keras", "w_0.60.keras"]


@of_no_framework
def test_p16_a_placeholder_that_is_no_name_is_refused_at_once():
    for name in (
        "{}.keras",
        "{epoch.__class__}.keras",
        "{logs[0]}.keras",
        "{epoch.keras",
        "}.keras",
    ):
        with pytest.raises(InvalidArgumentError):
            ModelCheckpoint(name)


# Names that nothing fills


@pytest.mark.parametrize("name", ["{val_accurcy:.2f}", "{accurcy}"])
def test_a_misspelt_placeholder_is_an_error_when_the_first_epoch_has_shown_the_names(
    xy, classifier, tmp_path, name
):
    """Where the names are not known before (TensorFlow); each save replaced the last one's `NA`."""
    saver = ModelCheckpoint(f"{tmp_path}/x_{name}.keras")
    with pytest.raises(InvalidArgumentError, match="accurcy} is none of .*val_accuracy"):
        classifier().fit(*xy, validation_split=0.25, epochs=3, verbose=0, callbacks=[saver])

    assert list(tmp_path.iterdir()) == []


def test_a_metric_that_comes_with_a_later_validation_reads_na_until_then(xy, classifier, tmp_path):
    saver = ModelCheckpoint(
        f"{tmp_path}/{{epoch}}_{{val_loss:.2f}}.weights.h5", save_weights_only=True
    )
    classifier().fit(
        *xy, validation_split=0.25, validation_freq=2, epochs=2, verbose=0, callbacks=[saver]
    )  # fmt: skip

    names = sorted(path.name for path in tmp_path.glob("*.h5"))
    assert names[0] == "1_NA.weights.h5" and "NA" not in names[1]
