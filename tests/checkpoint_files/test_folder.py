"""Files that are there: what a save says of them, and which is the best."""

import json

import numpy as np
import pytest

from checkpoint_files.organs import Model
from peakhold import CallbackList, LoopHost, ModelCheckpoint
from peakhold._core.monitor import Direction
from peakhold.checkpoint_files.folder import CheckpointFolder
from peakhold.errors import SaveError, SaveWarning


def test_an_outcome_says_what_was_there_before(tmp_path):
    Model(tmp_path, "best.safetensors", run="r0").save(0, 0.5)
    model = Model(tmp_path, "best.safetensors")
    first, second = model.save(0, 0.4), model.save(1, 0.3)
    assert (first.aside, first.again) == (str(tmp_path / "previous" / "best.safetensors"), False)
    assert first.was_before and not first.rewritten
    assert (second.aside, second.again) == (None, True)
    assert first.committed and second.committed and first.trouble is None


def test_what_is_kept_aside_is_the_better_one_by_what_both_were_ranked_by(tmp_path):
    path = tmp_path / "previous" / "best.safetensors"
    for run, value, kept in (("r0", 0.3, None), ("r1", 0.5, 0.3), ("r2", 0.2, 0.3), ("r3", 9, 0.2)):
        model = Model(tmp_path, "best.safetensors", run=run)
        model.weights["w"][:] = value
        model.save(0, value)
        if kept is None:
            assert not path.exists()
        else:
            assert np.float64(kept).tobytes() in path.read_bytes()


@pytest.mark.parametrize(
    ("direction", "values", "best"),
    [
        (Direction.MIN, [0.5, 0.3, 0.3, 0.4], 1),  # of equal values the older
        (Direction.MIN, [None, 0.3, None], 1),
        (Direction.MIN, [None, None], None),
        (Direction.MAX, [0.5, 0.3], None),  # ranked the other way when they were saved
    ],
)
def test_the_best_file(tmp_path, direction, values, best):
    model = Model(tmp_path)
    for epoch, value in enumerate(values):
        model.save(epoch, value)
    found = model.folder.best("loss", direction)
    assert (found and found[1].epoch) == best
    assert model.folder.best("another", direction) is None


def test_the_best_file_is_one_that_is_whole(tmp_path):
    model = Model(tmp_path)
    for epoch, value in enumerate([0.5, 0.4, 0.3]):
        model.weights["w"][:] = value
        model.save(epoch, value)
    (tmp_path / "w_2.safetensors").write_bytes(b"torn")
    (tmp_path / "w_1.safetensors").unlink()
    path, saved = Model(tmp_path, run="r2").folder.best("loss", Direction.MIN)
    assert (path, saved.epoch) == (str(tmp_path / "w_0.safetensors"), 0)


def test_a_folder_without_room_is_known_before_training(tmp_path):
    folder = Model(tmp_path / "new").folder
    folder.check(None)
    folder.check(1)
    assert (tmp_path / "new").is_dir()
    with pytest.raises(SaveError, match="are free"):
        folder.check(1 << 62)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SaveError, match="a folder that can be written"):
        Model(tmp_path / "file").folder.check(None)


# Cleaning up goes wrong


class Raises:
    at_most = None

    def keeps(self, infos):
        return {info.commit for info in infos if info.metrics["accuracy"] > 0.5}


def test_a_policy_that_raises_loses_no_save_and_is_told(tmp_path):
    model = Model(tmp_path)
    for epoch in range(2):
        outcome = model.save(epoch, 0.5, policy=Raises())
        assert outcome.committed
        assert outcome.trouble == "KeyError: 'accuracy'"
    assert (tmp_path / "w_0.safetensors").exists() and (tmp_path / "w_1.safetensors").exists()


@pytest.mark.parametrize("background", [False, True])
def test_a_sidecar_that_cannot_be_true_is_told_and_costs_no_save(tmp_path, background):
    """No file can have a NUL in its name: what says so is passed over, and said."""
    weights = {"w": np.zeros(3)}

    def run(start, end):
        saver = ModelCheckpoint(
            tmp_path / "{epoch}" / "w_{epoch}.safetensors",
            "loss",
            keep_last=1,
            background=background,
        )
        host = LoopHost(get_state=lambda: weights, set_state=weights.update)
        callbacks = CallbackList(saver, host=host, verbose=0)
        callbacks.on_train_begin()
        for epoch in range(start, end):
            callbacks.on_epoch_begin(epoch)
            callbacks.on_epoch_end(epoch, {"loss": 0.5})
        callbacks.on_train_end()
        return saver

    run(0, 2)
    sidecar = tmp_path / "2" / "w_epoch.safetensors.peakhold.json"
    lines = sidecar.read_text().splitlines()
    impossible = json.loads(lines[-1]) | {"name": "w_\0.safetensors"}
    sidecar.write_text("\n".join([*lines, json.dumps(impossible), ""]))

    with pytest.warns(SaveWarning, match="is damaged: lines that are no entries: 1") as told:
        saver = run(2, 4)
    assert not [w for w in told if "could not save" in str(w.message)]
    assert saver.latest_path == str(tmp_path / "4" / "w_4.safetensors")


def turned(model, run):
    """The folder of the next turn of the same object."""
    before = model.folder
    model.run = run
    model.folder = CheckpointFolder(model.template, ".safetensors", run, earlier=before)


def test_files_of_earlier_turns_are_its_own_and_nobody_else_s(tmp_path):
    Model(tmp_path, "w_0.safetensors", run="other").save(0, 0.1)
    model = Model(tmp_path, "w_{epoch}.safetensors", run="r1")
    Model(tmp_path, run="other").save(9, 0.1)
    for turn, run in enumerate(("r1", "r2", "r3")):
        if turn:
            turned(model, run)
        outcome = model.save(1, 0.5 - turn / 10, keep_best=1)
        assert outcome.aside is None
        assert outcome.best[1].run_id == run
        model.save(2 + turn, 0.9, keep_best=1)
    names = sorted(path.name for path in tmp_path.glob("*.safetensors"))

    assert names == ["w_0.safetensors", "w_1.safetensors", "w_4.safetensors", "w_9.safetensors"]


def test_a_file_of_an_earlier_turn_that_another_run_has_replaced_is_set_aside(tmp_path):
    model = Model(tmp_path, "best.safetensors", run="r1")
    model.save(0, 0.5)
    Model(tmp_path, "best.safetensors", run="other").save(0, 0.2)
    turned(model, "r2")

    assert model.save(0, 0.4).aside == str(tmp_path / "previous" / "best.safetensors")


def test_in_a_folder_of_each_run_those_of_earlier_turns_are_found(tmp_path):
    model = Model(tmp_path, "{run_id}/w_{epoch}.safetensors", run="r1")
    model.save(0, 0.5, keep_last=1)
    turned(model, "r2")
    model.save(0, 0.4, keep_last=1)

    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.safetensors")] == [
        "r2/w_0.safetensors"
    ]


@pytest.mark.parametrize("is_link", [True, False])
def test_a_sweep_never_leaves_the_folder(is_link, tmp_path):
    """What `previous` leads to, if it is a link, is somebody else's."""
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "run"
    elsewhere.mkdir()
    folder.mkdir()
    if is_link:
        (folder / "previous").symlink_to(elsewhere)
    else:
        (folder / "previous").mkdir()
    left = folder / "previous" / ".w.keras.0a1b2c3d.peakhold-tmp"
    left.write_bytes(b"torn")
    Model(folder, "w.safetensors").folder.sweep()

    assert left.exists() is is_link
    left.unlink(missing_ok=True)
