"""What `BackupAndRestore` leaves behind, however a run goes: nothing. And nothing hangs."""

import copy
import gc
import os
import pickle
import threading
import traceback
import weakref

import pytest

import keras
import peakhold.keras as pk
from conftest import BACKEND
from keras_helpers import Recorder, epoch_of, fit, in_two_threads, model
from leftovers import check_nothing_is_left, descriptors, locked
from peakhold.errors import StoreForkedError
from peakhold.files import background

of_no_framework = pytest.mark.torch_is_enough(
    "folders, locks and copies are Python's; what a fit leaves open is counted on every backend"
)

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning")  # JAX; it is the point


@pytest.fixture(autouse=True)
def nothing_is_left_behind(tmp_path):
    yield
    check_nothing_is_left(tmp_path)


def collect():
    keras.utils.clear_session()  # which collects; what that lets go may be the end of a cycle
    gc.collect()


class Hook(keras.callbacks.Callback):
    """Calls a function at the begin of one epoch; it has no state, and says so."""

    def __init__(self, epoch, call):
        super().__init__()
        self.epoch, self.call = epoch, call

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            self.call()


class Holds(Hook):
    """From the end of the first epoch until the second has begun the writer writes nothing."""

    def __init__(self, hold):
        super().__init__(1, hold.open)
        self.hold = hold

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.hold.close()


def crash():
    raise ZeroDivisionError


def in_mid_save(hold, backup, call, epochs=3, net=None):
    """A fit in whose second epoch the first one's backup is under way when something is called."""
    return fit(net or model(), [Hook(1, call), Holds(hold), backup], epochs)


def crash_in_mid_save(hold, backup, net=None):
    with pytest.raises(ZeroDivisionError):
        in_mid_save(hold, backup, crash, net=net)


def steps(folder):
    return sorted(path.name for path in folder.glob("step-*"))


COPIES = [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))]


@of_no_framework
@pytest.mark.parametrize("clone", COPIES)
def test_an_unused_one_is_copied_and_each_does_its_work(clone, tmp_path):
    one = pk.BackupAndRestore(tmp_path / "backup")
    for backup in (clone(one), one, clone(one)):
        assert fit(model(), [backup], 2).epoch == [0, 1]
        assert os.listdir(tmp_path) == []


@of_no_framework
@pytest.mark.parametrize("clone", COPIES)
def test_a_copy_in_mid_save_has_no_part_in_the_run(clone, tmp_path, hold):
    copies, backup = [], pk.BackupAndRestore(tmp_path / "backup")
    in_mid_save(hold, backup, lambda: copies.append(clone(backup)))

    assert fit(model(), copies, 2).epoch == [0, 1]
    assert os.listdir(tmp_path) == []


def test_a_second_fit_with_the_same_objects_finds_the_place_free(tmp_path, hold):
    """While it runs there are a lock and open files: what is counted can be seen."""
    backup, net, seen = pk.BackupAndRestore(tmp_path / "backup"), model(), []

    def count():
        seen.append((len(locked(tmp_path)), len(descriptors(tmp_path)) > 1))

    for _ in range(3):
        assert in_mid_save(hold, backup, count, net=net).epoch == [0, 1, 2]
        assert seen.pop() == (1, True)
        check_nothing_is_left(tmp_path)
        assert os.listdir(tmp_path) == []


@of_no_framework
def test_fits_in_two_threads_share_the_writer_and_no_folder(tmp_path):
    results, both = {}, threading.Barrier(2, timeout=60)

    def train(name):
        backup = pk.BackupAndRestore(tmp_path / name)
        meet = Hook(1, lambda: BACKEND == "torch" and both.wait())
        results[name] = fit(model(), [meet, backup], 4).epoch

    assert in_two_threads(train) == []
    assert results == {"a": [0, 1, 2, 3], "b": [0, 1, 2, 3]}
    assert os.listdir(tmp_path) == []


@of_no_framework
@pytest.mark.parametrize("again", ["same", "new"])
def test_after_a_fit_that_raised_in_mid_save_the_next_one_goes_on(again, tmp_path, hold):
    recorder = Recorder()
    first = pk.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(ZeroDivisionError):
        fit(model(), [recorder, Hook(1, crash), Holds(hold), first], 3)
    second = first if again == "same" else pk.BackupAndRestore(tmp_path / "backup")
    seen = {}

    class Opens(keras.callbacks.Callback):
        def set_params(self, params):  # before any train begin
            hold.open()

    net = model()
    look = Hook(1, lambda: seen.update(weights=net.get_weights()))
    history = fit(net, [Opens(), look, second], 3)

    assert history.epoch == [0, 1, 2]
    assert epoch_of(seen["weights"], recorder) == 0
    check_nothing_is_left(tmp_path)
    assert os.listdir(tmp_path) == []


def test_one_that_is_gone_in_mid_save_leaves_its_backup_and_nothing_else(tmp_path, hold):
    def train():
        backup = pk.BackupAndRestore(tmp_path / "backup")
        crash_in_mid_save(hold, backup)
        return weakref.ref(backup)

    gone = train()
    collect()
    assert steps(tmp_path / "backup") == ["step-00000000"], "the beginning; the save is held"
    assert gone() is None or BACKEND != "torch", "the save does not keep the callback"
    hold.open()
    background.drain()
    assert steps(tmp_path / "backup") == ["step-00000000", "step-00000001"]
    if gone() is None:
        check_nothing_is_left(tmp_path)

    begun = []
    fit(model(), [Hook(1, lambda: begun.append(1)), pk.BackupAndRestore(tmp_path / "backup")], 3)
    assert begun == [1]
    assert os.listdir(tmp_path) == []


def _look_around(folder, backup):
    """In a forked child: what it holds of its parent's, and what it may do."""
    assert descriptors(folder) == []
    assert [t.name for t in threading.enumerate() if t.name.startswith("peakhold")] == []
    with pytest.raises(StoreForkedError):
        backup._peakhold_link.participant._kept.folder.wait()
    background.drain()
    assert steps(folder / "backup") == ["step-00000000"], "the parent's save is not the child's"


def test_a_worker_that_is_forked_in_mid_save_holds_nothing_and_does_not_hang(tmp_path, hold):
    """As a DataLoader forks: the child outlives the run, which ends as if it were not there."""
    backup, children = pk.BackupAndRestore(tmp_path / "backup"), []
    told, tell = os.pipe()
    go_on, tell_go_on = os.pipe()

    def fork():
        pid = os.fork()
        if pid == 0:
            word = b"?"
            try:
                _look_around(tmp_path, backup)
                word = b"!"
            except BaseException:
                traceback.print_exc()
            os.write(tell, word)
            os.read(go_on, 1)
            os._exit(0)
        children.append(pid)
        assert os.read(told, 1) == b"!", "the child found something; its words are above"

    try:
        assert in_mid_save(hold, backup, fork).epoch == [0, 1, 2]
        check_nothing_is_left(tmp_path)
        assert os.listdir(tmp_path) == []
    finally:
        os.write(tell_go_on, b"!")
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        for number in (told, tell, go_on, tell_go_on):
            os.close(number)
    assert codes == [0]


@of_no_framework
def test_a_worker_that_outlives_a_fit_that_raised_keeps_nobody_out(tmp_path, hold):
    children = []
    go_on, tell_go_on = os.pipe()

    def fork_and_crash():
        pid = os.fork()
        if pid == 0:
            os.read(go_on, 1)
            os._exit(0)
        children.append(pid)
        crash()

    try:
        with pytest.raises(ZeroDivisionError):
            in_mid_save(hold, pk.BackupAndRestore(tmp_path / "backup"), fork_and_crash)
        hold.open()
        collect()
        net = model()
        assert fit(net, [pk.BackupAndRestore(tmp_path / "backup")], 3).epoch == [0, 1, 2]
        assert locked(tmp_path) == []
        assert os.listdir(tmp_path) == []
    finally:
        os.write(tell_go_on, b"!")
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        for number in (go_on, tell_go_on):
            os.close(number)
    assert codes == [0]
