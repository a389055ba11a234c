"""The name of a file."""

import numpy as np
import pytest

from peakhold import LoopHost
from peakhold.checkpoint_files.template import CheckpointTemplate, static_folder
from peakhold.errors import HostError, InvalidArgumentError

RUN = {"run_id": "r", "timestamp": "t", "worker": 3}


@pytest.mark.parametrize(
    ("filepath", "batch", "logs", "path"),
    [
        ("best.h5", 4, {"loss": 1.0}, "best.h5"),
        ("{epoch:02d}_{batch}.h5", 4, {}, "02_5.h5"),  # both count from 1 in names
        ("{run_id}/{timestamp}_{worker}.h5", None, {}, "r/t_3.h5"),
        ("{epoch}_{loss:.2f}.h5", None, {"loss": 0.126}, "2_0.13.h5"),
        ("{epoch:.0f}.h5", None, {"epoch": 7}, "7.h5"),  # a logged metric wins over a name of ours
        ("{batch}_{loss:.1f}.h5", None, {}, "NA_NA.h5"),
        ("{word}.h5", None, {"word": "a"}, "a.h5"),
        ("{count:03d}.h5", None, {"count": np.int64(7)}, "007.h5"),
    ],
)
def test_names(filepath, batch, logs, path):
    template = CheckpointTemplate(filepath)
    assert template.fill(1, batch, logs, **RUN)[0] == path


def test_what_nothing_fills_is_listed():
    template = CheckpointTemplate("{b}_{a}_{epoch}.h5")
    assert template.fill(0, None, {}, **RUN)[1] == ["a", "b"]


@pytest.mark.parametrize(
    ("filepath", "suffix", "folder", "fixed", "fixed_in_a_run"),
    [
        ("best.keras", ".keras", ".", True, True),
        ("a/best.weights.h5", ".weights.h5", "a", True, True),
        ("a/{run_id}/best.h5", ".h5", "a", False, True),
        ("/a/{epoch}/{run_id}/best.h5", ".h5", "/a", False, False),
    ],
)
def test_what_a_name_tells(filepath, suffix, folder, fixed, fixed_in_a_run):
    template = CheckpointTemplate(filepath)
    assert (template.suffix, static_folder(filepath)) == (suffix, folder)
    assert (template.is_fixed, template.is_fixed_in_a_run) == (fixed, fixed_in_a_run)


def test_a_suffix_that_the_model_cannot_be_written_as():
    state = {"get_state": lambda: {"w": 1.0}, "set_state": print}
    template = CheckpointTemplate("best.keras")
    for host, accepted, hint in (
        (LoopHost(**state), None, "name the file .safetensors"),
        (LoopHost(**state), (".keras",), "use peakhold.ModelCheckpoint and name"),
        (LoopHost(), None, r"LoopHost\(save=...\)"),
    ):
        with pytest.raises(HostError, match=hint):
            template.check_suffix(host, "Saver", accepted)
    template.check_suffix(LoopHost(save=print), "Saver", None)


class Logs(LoopHost):
    """A loop that knows beforehand what it logs."""

    def metric_names(self):
        return ("loss",)

    def validates(self):
        return self.validated


def test_a_place_that_nothing_will_fill():
    host = Logs()
    host.validated = True
    for name in ("{epoch}_{loss:.2f}_{val_loss:.2f}", "{run_id}_{batch}"):
        CheckpointTemplate(name).check_placeholders(host, counts_batches=True)
    with pytest.raises(InvalidArgumentError, match="{batch} needs save_freq"):
        CheckpointTemplate("{batch}").check_placeholders(host, counts_batches=False)
    host.validated = False
    with pytest.raises(InvalidArgumentError, match="{val_loss} is none of"):
        CheckpointTemplate("{val_loss}").check_placeholders(host, counts_batches=True)
    CheckpointTemplate("{anything}").check_placeholders(LoopHost(), counts_batches=False)
