"""When a run of several workers begins: do their programs say the same?"""

import pytest

import peakhold
from peakhold import (
    Alert,
    BackupAndRestore,
    CSVLogger,
    EarlyStopping,
    ModelCheckpoint,
    ReduceLROnPlateau,
    RemoteMonitor,
    RunRecord,
    TensorBoard,
    TerminateOnNaN,
)
from peakhold.distributed import Limits, Workers, alone
from peakhold.errors import WorkersDifferError, WorkersError
from peakhold.ledger import RunFolder, read_events
from workers.rig import attempted, together, train

LOGS = [{"loss": 1.0, "val_loss": 0.5}, {"loss": 0.5, "val_loss": 0.25}]

# name: the lists of rank 0 and rank 1, and what is said on both
DIFFERENCES = {
    "patience": (
        lambda path: [EarlyStopping("loss", patience=3)],
        lambda path: [EarlyStopping("loss", patience=4)],
        "got patience=3 of EarlyStopping(loss) on rank 0, and 4 on rank 1.",
    ),
    "min_delta": (
        lambda path: [EarlyStopping("loss", min_delta=0.1)],
        lambda path: [EarlyStopping("loss")],
        "got min_delta=0.1 of EarlyStopping(loss) on rank 0, and 0 on rank 1.",
    ),
    "restore_best_weights": (
        lambda path: [EarlyStopping("loss", restore_best_weights=True)],
        lambda path: [EarlyStopping("loss")],
        "got restore_best_weights=True of EarlyStopping(loss) on rank 0, and False on rank 1.",
    ),
    "monitor": (
        lambda path: [EarlyStopping("loss")],
        lambda path: [EarlyStopping("val_loss")],
        "got EarlyStopping(loss) on rank 0, and none on rank 1.",
    ),
    "path": (
        lambda path: [ModelCheckpoint(f"{path}/a.safetensors")],
        lambda path: [ModelCheckpoint(f"{path}/b.safetensors")],
        "a.safetensors) on rank 0, and none on rank 1.",
    ),
    "save_best_only": (
        lambda path: [ModelCheckpoint(f"{path}/a.safetensors", save_best_only=True)],
        lambda path: [ModelCheckpoint(f"{path}/a.safetensors")],
        "got save_best_only=True of ModelCheckpoint(val_loss, ",
    ),
    "one that decides is on rank 0 only": (
        lambda path: [EarlyStopping("loss"), ReduceLROnPlateau("loss")],
        lambda path: [EarlyStopping("loss")],
        "got ReduceLROnPlateau(loss) on rank 0, and none on rank 1.",
    ),
    "one that decides is on rank 1 only": (
        lambda path: [EarlyStopping("loss")],
        lambda path: [TerminateOnNaN(), EarlyStopping("loss")],
        "got TerminateOnNaN() on rank 1, and none on rank 0.",
    ),
    "a backup is on rank 0 only": (
        lambda path: [EarlyStopping("loss"), BackupAndRestore(f"{path}/backup")],
        lambda path: [EarlyStopping("loss")],
        "on rank 0, and none on rank 1.",
    ),
    "order": (
        lambda path: [EarlyStopping("loss"), ReduceLROnPlateau("loss")],
        lambda path: [ReduceLROnPlateau("loss"), EarlyStopping("loss")],
        "got EarlyStopping(loss), ReduceLROnPlateau(loss) on rank 0, and ReduceLROnPlateau(loss)",
    ),
    "twice": (
        lambda path: [EarlyStopping("loss"), EarlyStopping("loss")],
        lambda path: [EarlyStopping("loss")],
        "got EarlyStopping(loss) #2 on rank 0, and none on rank 1.",
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_programs_that_differ_are_an_error_on_all_before_the_first_batch(name, tmp_path):
    first, second, words = DIFFERENCES[name]
    lists = [first, second, first]
    begun = []

    found = attempted(
        3,
        lambda rank, channel: train(
            lists[rank](tmp_path), LOGS, channel=channel, on_epoch=lambda *_: begun.append(rank)
        ),
    )

    assert [type(one) for one in found] == [WorkersDifferError] * 3, found
    assert len({str(one) for one in found}) == 1
    assert words in str(found[0]), str(found[0])
    assert "Hint: pass the same callbacks, with the same settings, on every rank" in str(found[0])
    assert begun == []
    assert list(tmp_path.iterdir()) == []


def test_a_different_number_of_epochs_is_an_error_on_all():
    found = attempted(
        2,
        lambda rank, channel: train(
            [EarlyStopping("loss")], LOGS, channel=channel, epochs=10 + rank
        ),
    )

    assert [type(one) for one in found] == [WorkersDifferError] * 2
    assert "got epochs=10 on rank 0, and 11 on rank 1." in str(found[1])


SAME = {
    "verbose": lambda rank, path: [EarlyStopping("loss", verbose=rank)],
    "a log on rank 0": lambda rank, path: [
        EarlyStopping("loss"), *[CSVLogger(f"{path}/log.csv")] * (rank == 0)
    ],
    "a log before the others": lambda rank, path: [
        *[CSVLogger(f"{path}/log.csv")] * (rank == 0), EarlyStopping("loss")
    ],
    "curves on rank 0": lambda rank, path: [
        *[TensorBoard(f"{path}/curves")] * (rank == 0), EarlyStopping("loss")
    ],
    "a log on rank 1": lambda rank, path: [
        EarlyStopping("loss"), *[CSVLogger(f"{path}/log.csv")] * (rank == 1)
    ],
    "a record on rank 0": lambda rank, path: [
        *[RunRecord(f"{path}/run")] * (rank == 0), EarlyStopping("loss")
    ],
    "an alert on rank 0": lambda rank, path: [
        *[Alert("json://127.0.0.1:9/", when="loss < 0")] * (rank == 0), EarlyStopping("loss")
    ],
    "a monitor on rank 0": lambda rank, path: [
        EarlyStopping("loss"), *[RemoteMonitor("http://127.0.0.1:9")] * (rank == 0)
    ],
}  # fmt: skip


def test_of_several_workers_one_owns_the_folder_and_writes_the_record(tmp_path):
    def work(rank, channel):
        record = [RunRecord(tmp_path), EarlyStopping("loss", patience=9)]
        return train(record, [{"loss": 1.0 + rank}, {"loss": 0.5 + rank}], channel=channel)

    together(2, work)

    folder = RunFolder(tmp_path)
    assert str(folder.status()) == "ended: all epochs were run"
    assert folder.history().history == {"loss": [1.5, 1.0]}
    assert [event["kind"] for event in read_events(folder.events)].count("start") == 1


@pytest.mark.parametrize("name", SAME)
@pytest.mark.filterwarnings("ignore::peakhold.errors.RemoteWarning")
def test_what_only_records_may_stand_on_some_workers_only(name, tmp_path):
    ran = together(
        2, lambda rank, channel: train(SAME[name](rank, tmp_path), LOGS, channel=channel)
    )

    assert [one.epochs for one in ran] == [[0, 1], [0, 1]]


class Nothing(peakhold.Callback):
    """A user's: it looks at what there is when it is called."""

    def __init__(self, other):
        super().__init__()
        self.other, self.seen = other, []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append((self.other.best, dict(logs)))


@pytest.mark.parametrize("whose", [0, 1])
def test_a_users_callback_stands_between_ours_on_one_worker_only(whose, tmp_path):
    def work(rank, channel):
        stopper, plateau = EarlyStopping("loss"), ReduceLROnPlateau("loss", patience=1)
        between = [Nothing(stopper)] if rank == whose else []
        ran = train([stopper, *between, plateau], LOGS, channel=channel)
        return ran, between

    for ran, between in together(2, work):
        assert ran.epochs == [0, 1]
        for one in between:
            assert one.seen == [(1.0, LOGS[0]), (0.5, LOGS[1])]


def test_a_rank_that_begins_no_run_is_named_within_the_limit(tmp_path):
    def work(rank, channel):
        if rank == 2:
            return "never began"
        coordinator = Workers(channel, Limits(handshake=0.5, wait=20.0))
        return train([EarlyStopping("loss")], LOGS, channel=coordinator)

    *others, last = attempted(3, work)

    assert last == "never began"
    for error in others:
        assert isinstance(error, WorkersError)
        assert error.rank in {0, 2}
    assert "got none of rank 2" in str(others[0])
    assert "not under `if rank == 0:`" in str(others[0])
    assert "PEAKHOLD_HANDSHAKE_LIMIT" in str(others[0])


def test_alone_is_a_run_of_ones_own(monkeypatch):
    """Whatever group there is: another rank begins none."""
    from peakhold.distributed import finding
    from peakhold.testing import FakeHub

    hub = FakeHub(2)
    monkeypatch.setattr(finding, "_channels", {"torch": hub.channel(0)})
    monkeypatch.setattr(finding, "_ENGINES", {"torch": lambda: hub.channel(0)})

    with alone():
        ran = train([EarlyStopping("loss")], LOGS)

    assert ran.epochs == [0, 1]
    assert hub.calls == 0


def test_runs_of_one_process_follow_one_another(tmp_path):
    """Keys of the first are nothing to the second."""

    def work(rank, channel):
        return [
            train([EarlyStopping("loss")], LOGS, channel=channel),
            train([ReduceLROnPlateau("loss", patience=1)], [*LOGS, *LOGS], channel=channel),
        ]

    for first, second in together(2, work):
        assert first.epochs == [0, 1]
        assert second.epochs == [0, 1, 2, 3]


def test_a_limit_is_a_number_of_seconds(monkeypatch):
    monkeypatch.setenv("PEAKHOLD_WORKERS_LIMIT", "soon")
    with pytest.raises(ValueError, match="expected seconds, more than 0, got PEAKHOLD_WORKERS"):
        Limits()
    with pytest.raises(ValueError, match="expected seconds, more than 0, got handshake=0"):
        Limits(wait=1, handshake=0)
    monkeypatch.setenv("PEAKHOLD_WORKERS_LIMIT", "90.5")
    assert (Limits().wait, Limits().handshake) == (90.5, 60.0)
