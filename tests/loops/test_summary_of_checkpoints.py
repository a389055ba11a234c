"""What `ModelCheckpoint` says when a run ends: a closed list, each case with its text."""

import ast
import inspect
import os
import shutil
import signal
import textwrap

import numpy as np
import pytest

import peakhold
from peakhold import AtEnd, ModelCheckpoint
from peakhold._core.policies import checkpoint
from peakhold.checkpoint_files.saving import Saving
from peakhold.runtime.summary import Best

pytestmark = pytest.mark.filterwarnings("ignore")
SAVED_NOTHING = "ModelCheckpoint saved nothing to 'm.safetensors': "


class Refuses(ModelCheckpoint):
    def _should_save_model(self, epoch, batch, logs, filepath):
        return False


def run(*epochs, callback=None, params=None, each=lambda params, epoch: None, press=False, **given):
    """Trains by these logs; gives what is said at the end, and the callback."""
    params = {"w": np.zeros(2)} if params is None else params
    host = peakhold.LoopHost(get_state=lambda: params, set_state=params.update)
    given = {"filepath": "m.safetensors", "monitor": "loss", "mode": "min", **given}
    callback = ModelCheckpoint(**given) if callback is None else callback
    callbacks = peakhold.CallbackList([callback], host=host, epochs=len(epochs), verbose=0)
    callbacks.on_train_begin()
    for epoch, logs in enumerate(epochs):
        callbacks.on_epoch_begin(epoch)
        each(params, epoch)
        callbacks.on_train_batch_end(0, {"loss": 1.0})
        if press and epoch == len(epochs) - 1:
            signal.raise_signal(signal.SIGINT)
            break
        callbacks.on_epoch_end(epoch, dict(logs) if isinstance(logs, dict) else {"loss": logs})
    if press:
        with pytest.raises(KeyboardInterrupt):
            callbacks.on_train_end()
    else:
        callbacks.on_train_end()
    return callback._peakhold_link.participant.summary(), callback


def nan_in_weights(params, epoch):
    params["w"] = np.array([np.nan, 1.0])


def a_file_in_the_folder_s_place(params, epoch):
    if os.path.isdir("gone"):
        shutil.rmtree("gone")
        open("gone", "w").close()


def is_taken_away(params, epoch):
    if os.path.exists("m.safetensors"):
        os.remove("m.safetensors")


def after(*earlier, **first):
    """A case of another run, in another program, after one that ended well."""

    def case(*epochs, **given):
        run(*earlier, **first)
        return run(*epochs, **given)

    return case


def one_object_twice(*epochs, **given):
    if "callback" not in given:
        given["callback"] = ModelCheckpoint(
            "m.safetensors", "loss", mode="min", save_best_only=given.pop("save_best_only", False)
        )
    again, taken = given.pop("again"), given.pop("taken", False)
    model = Numbers()
    for logged in (epochs, again):
        callbacks = peakhold.CallbackList(
            [given["callback"]], model=model, epochs=len(logged), verbose=0
        )
        callbacks.on_train_begin()
        if taken and logged is again:
            os.remove("m.safetensors")
        for epoch, loss in enumerate(logged):
            callbacks.on_epoch_begin(epoch)
            callbacks.on_epoch_end(epoch, {"loss": loss})
        callbacks.on_train_end()
    return given["callback"]._peakhold_link.participant.summary(), given["callback"]


class Numbers:
    """A model."""

    def __init__(self):
        self.weights = [np.zeros(2)]

    def get_weights(self):
        return self.weights

    def set_weights(self, weights):
        self.weights = weights


NAN = float("nan")
CASES = {  # by name: how it is run, with what, what is said
    "the best": (run, (3.0, 2.0, 2.5), {"save_best_only": True}, Best("loss", 2.0, 1, "saved in m.safetensors")),
    "the best of keep_best": (
        run, (3.0, 2.0, 2.5), {"filepath": "m{epoch}.safetensors", "keep_best": 2},
        Best("loss", 2.0, 1, "saved in m2.safetensors"),
    ),
    "the best, and one of an earlier run is better": (
        after(1.0, save_best_only=True), (5.0, 4.0), {"save_best_only": True},
        Best("loss", 4.0, 1, "saved in m.safetensors",
             note="an earlier run's loss 1.00000 is better, saved in previous/m.safetensors"),
    ),
    "the best, and somebody has taken it away": (
        run, (3.0, 4.0, 5.0), {"save_best_only": True, "each": is_taken_away},
        Best("loss", 3.0, 0, "saved in m.safetensors (which is not there any more)"),
    ),
    "the best is of an earlier fit of the object": (
        one_object_twice, (1.0,), {"save_best_only": True, "again": (5.0,)},
        Best("loss", 1.0, 0, "saved in m.safetensors", is_earlier=True),
    ),
    "one file": (run, (3.0,), {}, "ModelCheckpoint saved once, in m.safetensors"),
    "three": (
        run, (3.0, 2.0, 1.0), {"filepath": "m{epoch}.safetensors"},
        "ModelCheckpoint saved 3 times, last in m3.safetensors",
    ),
    "no epoch has ended": (run, (), {}, SAVED_NOTHING + "no epoch has ended"),
    "Ctrl-C in the first epoch": (run, (1.0,), {"press": True}, SAVED_NOTHING + "no epoch has ended"),
    "no save was due": (
        run, (1.0, 1.0), {"save_freq": AtEnd(), "press": True}, SAVED_NOTHING + "no save was due"
    ),
    "the metric is NaN": (
        run, ({"loss": 1.0, "m": NAN},), {"monitor": "m", "save_best_only": True},
        SAVED_NOTHING + "m is not a finite number",
    ),
    "the loss is NaN": (run, (NAN,), {}, SAVED_NOTHING + "the loss is nan"),
    "the weights are not finite": (
        run, (1.0,), {"each": nan_in_weights}, SAVED_NOTHING + "w holds NaN or infinity"
    ),
    "below the threshold": (
        run, (1.0,), {"save_best_only": True, "initial_value_threshold": 0.1},
        SAVED_NOTHING + "loss did not improve from 0.1",
    ),
    "nobody logs the metric": (
        run, (1.0, 1.0), {"monitor": "val_loss", "save_best_only": True},
        SAVED_NOTHING + "'val_loss' was not logged",
    ),
    "nobody logs it at batches": (
        run, (1.0, 1.0), {"monitor": "val_loss", "save_best_only": True, "save_freq": 1},
        SAVED_NOTHING + "'val_loss' was not logged",
    ),
    "the disk refuses": (
        run, (1.0,), {"filepath": "gone/m.safetensors", "each": a_file_in_the_folder_s_place},
        ("ModelCheckpoint saved nothing to 'gone/m.safetensors': what stands at '{here}/gone' is no "
        "folder; move it away"),
    ),
    "a user's code refuses": (
        run, (1.0,), {"callback": Refuses("m.safetensors")}, SAVED_NOTHING + "_should_save_model said no"
    ),
    "the file that is there is an earlier run's": (
        after(2.0), (NAN,), {},
        ("ModelCheckpoint saved nothing to 'm.safetensors' (the file that is there is an earlier "
        "run's): the loss is nan"),
    ),
    "nothing in this turn of an object": (
        one_object_twice, (1.0,), {"again": (NAN,)},
        "ModelCheckpoint saved nothing: the loss is nan; its newest file is m.safetensors",
    ),
    "nothing in this turn, and the file is gone": (
        one_object_twice, (1.0,), {"again": (NAN,), "taken": True},
        ("ModelCheckpoint saved nothing: the loss is nan; its newest file is m.safetensors (which is "
        "not there any more)"),
    ),
    "a turn without an epoch": (
        one_object_twice, (1.0,), {"again": ()},
        "ModelCheckpoint saved nothing: no epoch has ended; its newest file is m.safetensors",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_said(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    how, epochs, given, said = CASES[case]

    told, _ = how(*epochs, **given)

    assert told == (said.replace("{here}", str(tmp_path)) if isinstance(said, str) else said)


NOT_SHOWN = {
    "a user's code said no",  # said by the hook's name
    "may be better larger or smaller: nobody knows",  # an error, at the first value
}


def test_no_sentence_and_no_reason_is_without_a_case():
    told = " ".join(str(said) for *_, said in CASES.values())
    summary = ast.parse(textwrap.dedent(inspect.getsource(Saving.summary))).body[0].body[1:]
    skips = [
        node.args[0]
        for node in ast.walk(ast.parse(inspect.getsource(checkpoint)))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Skip"
    ]
    pieces = {
        piece.value
        for node in (*summary, *skips)
        for piece in ast.walk(node)
        if isinstance(piece, ast.Constant) and isinstance(piece.value, str)
    }

    assert len(pieces) > 12
    assert {piece for piece in pieces - NOT_SHOWN if piece not in told and piece != ".6g"} == set()
