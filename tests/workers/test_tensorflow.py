"""Several workers on TensorFlow: its coordination service, loops under a strategy, and `fit`."""

import base64
import pathlib

import pytest

from peakhold.distributed import tf_service
from workers.forked import Ground
from workers.one_run import lines_of, rows_of_one_run

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")


@pytest.fixture(scope="module")
def ground():
    modules = ["tf_programs", "tf_kit", "pytest"]
    one = Ground(modules, {"KERAS_BACKEND": "tensorflow"})
    yield one
    one.close()


# The channel


def test_what_is_private_in_tensorflow_is_there():
    from tensorflow.python.eager import context

    assert context.context()._collective_ops_server_def is None
    for name in ("set_config_key_value", "get_config_key_value", "delete_config_key_value"):
        assert callable(getattr(context.Context, name))
    assert context.context_safe() is context.context()


def test_one_process_has_no_group():
    assert tf_service.tensorflow_group() is None


class Context:
    """A cluster of a chief, two workers and an evaluator, as one of them has it."""

    def __init__(self, job, index):
        from tensorflow.core.protobuf import tensorflow_server_pb2

        server = tensorflow_server_pb2.ServerDef(job_name=job, task_index=index)
        for name, size in (("worker", 2), ("chief", 1), ("evaluator", 1)):
            one = server.cluster.job.add(name=name)
            for task in range(size):
                one.tasks[task] = f"127.0.0.1:{task}"
        self._collective_ops_server_def = server


@pytest.mark.parametrize(
    ("job", "index", "rank"), [("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)]
)
def test_ranks_are_those_of_tensorflow(job, index, rank):
    channel = tf_service.tensorflow_channel(Context(job, index))

    assert (channel.rank, channel.size) == (rank, 3)


def test_an_evaluator_is_no_worker():
    assert tf_service.tensorflow_channel(Context("evaluator", 0)) is None


def test_errors_are_those_of_python():
    class Service:
        def __init__(self, error):
            self.error = error

        def get_config_key_value(self, key, milliseconds):
            raise self.error

    def get(error):
        return tf_service.TensorFlowChannel(Service(error), 0, 2).get("a", 0)

    assert get(tf.errors.DeadlineExceededError(None, None, "late")) is None
    assert get(tf.errors.NotFoundError(None, None, "no")) is None
    with pytest.raises(ConnectionError, match="^gone$"):
        get(tf.errors.UnavailableError(None, None, "gone\nand more"))
    with pytest.raises(ConnectionError, match="^stopped$"):
        get(tf.errors.AbortedError(None, None, "stopped"))
    with pytest.raises(tf.errors.InvalidArgumentError):
        get(tf.errors.InvalidArgumentError(None, None, "wrong"))
    closed = tf_service.TensorFlowChannel(Service(KeyError()), 0, 2)
    closed.close()
    with pytest.raises(ConnectionError):
        closed.get("a", 0)


def test_values_are_text_on_the_way():
    kept = {}

    class Service:
        def set_config_key_value(self, key, text):
            kept[key] = text

    tf_service.TensorFlowChannel(Service(), 0, 2).set("a", b"\xff")
    assert kept == {"a": base64.b64encode(b"\xff").decode()}


def test_the_kits_pass(ground):
    """Of the channel, and of the coordinator over it: each test in three processes of one cluster."""
    for one in ground.results("tf_kit", "run_kits", 3, timeout=120):
        assert one["failed"] == []
        assert one["passed"] >= 14


# Processes


def test_a_loop_of_two_workers_is_one_run(ground, tmp_path):
    """One best, one file, one CSV; killed, it goes on from the backup to the same end."""
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    for folder in (unbroken, broken):
        folder.mkdir()
    zero, one = ground.results("tf_programs", "loop", 2, [str(unbroken), 4])

    assert zero["statistics"] != one["statistics"]
    shared = ("ran", "best", "best_epoch", "rate", "weights", "files")
    rows = rows_of_one_run(unbroken, zero, one, shared)
    assert zero["files"] == ["backup", "best.keras", "best.keras.peakhold.json", "log.csv"]

    killed = ground.run("tf_programs", "loop", 2, [str(broken), 4, 2])
    assert [one.status for one in killed] == [-9, -9]
    again = ground.results("tf_programs", "loop", 2, [str(broken), 4])

    for rank, end in enumerate((zero, one)):
        assert again[rank]["ran"] == end["ran"][again[rank]["ran"][0] :]
        assert 1 <= again[rank]["ran"][0] <= 2
        same = [name for name in shared if name != "ran"]
        assert [again[rank][name] for name in same] == [end[name] for name in same]
    assert lines_of(broken / "log.csv") == rows


@pytest.mark.exhaustive
def test_a_run_goes_on_inside_an_epoch_on_two_workers(ground, tmp_path):
    for unbroken, resumed in ground.results("tf_programs", "in_runs", 2, [str(tmp_path)]):
        assert resumed[0] == unbroken[0]
        assert (unbroken[1], resumed[1]) == (21, 10)  # behind batch 4 of epoch 2


def test_callbacks_may_run_in_the_scope_of_the_strategy(ground, tmp_path):
    """Where making a variable, as Keras's saving does, takes all workers."""
    zero, one = ground.results("tf_programs", "loop", 2, [str(tmp_path), 2, None, True])

    assert zero["files"] == one["files"]
    assert "best.keras" in zero["files"]
    assert zero["best"] == one["best"]


def test_what_cannot_work_is_refused_before_the_first_batch(ground, tmp_path):
    for ended in ground.results("tf_programs", "refused", 2, [str(tmp_path)]):
        (_, of_keras), (fit, words), (joint, also) = ended
        assert "Attempt to convert a value (PerReplica:{" in of_keras  # as the docs quote it
        assert "with an unsupported type" in of_keras
        assert fit == joint == "HostError"
        assert "got model.fit, which cannot train with it in Keras 3" in words
        assert "strategy.run" in words
        assert "from peakhold.tf_keras import" in words
        assert "got summing/total, which only all workers together can read" in also
    assert not (tmp_path / "log.csv").exists()


def test_a_worker_that_dies_is_named(ground):
    zero, one = ground.run("tf_programs", "left_alone", 2)

    assert one.status == -9
    assert zero.error[0] == "WorkerLostError"
    assert "got rank 1, which is gone" in zero.error[1]
    assert zero.seconds < 60


def test_fit_on_two_replicas_of_one_process(ground, tmp_path):
    (report,) = ground.results("tf_programs", "fit", 1, [str(tmp_path), 4])

    assert report["replicas"] == 2
    assert report["best"] == min(report["val_loss"])
    # Each replica has statistics of its own, and Keras sets their mean: what it restores is near
    # the model that was best, and the same for its own class.
    assert [report["val_loss"], report["evaluated"]] == report["by_keras"]
    assert report["evaluated"] == pytest.approx(report["best"], rel=0.01)
    assert report["files"] == ["backup", "best.keras", "best.keras.peakhold.json", "log.csv"]


def test_the_program_of_the_docs_is_one_run_in_two_processes(ground, tmp_path):
    page = pathlib.Path(__file__).parents[2] / "docs" / "how-to" / "workers-tensorflow.md"
    zero, one = ground.results("tf_programs", "page", 2, [str(page), str(tmp_path)])

    assert zero == one
    best, best_epoch, stopped_epoch = zero
    assert best < 0.3
    assert 0 < best_epoch < stopped_epoch
    rows = lines_of(tmp_path / "m" / "log.csv")
    assert len(rows) == stopped_epoch + 2
    assert all(path.name != "previous" for path in (tmp_path / "m").iterdir())
