"""Something else where TensorBoard's folders and files belong."""

import os
import warnings

import pytest

import hostile_places
from peakhold import CallbackList, TensorBoard
from peakhold.errors import SaveError

pytestmark = pytest.mark.timeout(30)


def trained(folder):
    run = CallbackList([TensorBoard(folder)], verbose=0)
    run.on_train_begin()
    for epoch in range(2):
        run.on_epoch_begin(epoch)
        run.on_epoch_end(epoch, {"loss": 0.5, "val_loss": 0.6})
    run.on_train_end()


NO_FOLDER = {
    name: make for name, make in hostile_places.STANDS.items() if not name.startswith("folder")
}


@pytest.mark.parametrize("kind", ["train", "validation", "."])
@pytest.mark.parametrize("case", NO_FOLDER)
def test_what_stands_in_a_folder_s_place_is_told_before_the_first_batch(case, kind, tmp_path):
    folder = tmp_path / "runs" / "logs"
    (folder if kind != "." else folder.parent).mkdir(parents=True)
    NO_FOLDER[case](folder / kind if kind != "." else folder)
    run = CallbackList([TensorBoard(folder)], verbose=0)
    with pytest.raises(SaveError) as caught:
        run.on_train_begin()
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("case", hostile_places.STANDS)
def test_what_is_called_like_an_event_file_and_is_none_is_passed_over(case, tmp_path):
    folder = tmp_path / "runs" / "logs"
    (folder / "train").mkdir(parents=True)
    its = folder / "train" / "events.out.tfevents.9000000000.there.1.0.v2"
    hostile_places.STANDS[case](its)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(folder)
    assert len(os.listdir(folder / "train")) == 2
