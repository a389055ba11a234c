"""Several processes of one JAX program: its coordination service, loops, and `fit`."""

import contextlib
import pathlib
import socket
import threading

import pytest

from peakhold.distributed import finding, jax_service
from peakhold.testing import ChannelTests, CoordinatorTests, run_workers
from workers.forked import Ground
from workers.one_run import lines_of, rows_of_one_run

pytest.importorskip("jax")


# The channel


def clients_of(size):
    """A service with so many clients, in this process."""
    from jax._src.lib import _jax

    with contextlib.closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{one.getsockname()[1]}"
    service = _jax.get_distributed_runtime_service(
        address, size, heartbeat_timeout=10, shutdown_timeout=10
    )
    clients = [
        _jax.get_distributed_runtime_client(address, i, init_timeout=10, heartbeat_timeout=10)
        for i in range(size)
    ]
    in_threads([client.connect for client in clients])
    return service, clients


def in_threads(calls):
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def run(size, work):
    service, clients = clients_of(size)
    channels = [jax_service.JaxChannel(client, rank, size) for rank, client in enumerate(clients)]
    try:
        return run_workers(size, lambda rank: work(channels[rank]))
    finally:
        in_threads([client.shutdown for client in clients])
        service.shutdown()


class TestJaxChannel(ChannelTests):
    def run(self, size, work):
        return run(size, work)


class TestJaxWorkers(CoordinatorTests):
    def run(self, size, work):
        return run(size, work)


def test_what_is_private_in_jax_is_there():
    from jax._src import distributed
    from jax._src.lib import _jax

    state = distributed.global_state
    assert (state.process_id, state.num_processes, state.client) == (0, 1, None)
    for name in (
        "key_value_set_bytes",
        "key_value_try_get_bytes",
        "blocking_key_value_get_bytes",
        "key_value_delete",
    ):
        assert callable(getattr(_jax.DistributedRuntimeClient, name))


def test_one_process_has_no_group():
    assert jax_service.jax_group() is None


def test_another_group_has_a_channel_of_its_own(monkeypatch):
    from jax._src import distributed

    state = distributed.global_state
    monkeypatch.setattr(state, "num_processes", 2)
    monkeypatch.setattr(state, "process_id", 1)
    found = []
    for client in (object(), object()):
        monkeypatch.setattr(state, "client", client)
        found += [finding._channel_of("jax"), finding._channel_of("jax")]
    finding._channels.pop("jax")

    first, again, second, _ = found
    assert first is again
    assert first is not second
    assert (second.rank, second.size) == (1, 2)


def test_what_is_lost_is_a_lost_connection():
    class Lost:
        def key_value_set_bytes(self, key, value):
            raise RuntimeError("UNAVAILABLE: Socket closed\nand more")

    with pytest.raises(ConnectionError, match="^UNAVAILABLE: Socket closed$"):
        jax_service.JaxChannel(Lost(), 0, 2).set("a", b"")

    closed = jax_service.JaxChannel(Lost(), 0, 2)
    closed.close()
    with pytest.raises(ConnectionError):
        closed.get("a", 0)


# Processes


@pytest.fixture(scope="module")
def ground():
    one = Ground(["jax_programs"], {"KERAS_BACKEND": "jax"})
    yield one
    one.close()


@pytest.fixture(scope="module")
def keras_ground():
    pytest.importorskip("keras")
    pytest.importorskip("tensorflow")  # Keras asks for tf.data, with several processes
    quick_to_compile = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    modules = ["jax_programs", "keras", "peakhold.keras", "tensorflow", "h5py"]
    one = Ground(modules, {"KERAS_BACKEND": "jax", "XLA_FLAGS": quick_to_compile})
    yield one
    one.close()


def test_a_run_goes_on_inside_an_epoch_in_two_processes(ground, tmp_path):
    results = ground.results("jax_programs", "in_runs", 2, [str(tmp_path)])
    for (unbroken, n_batches), (resumed, n_again) in results:
        assert resumed == unbroken
        assert (n_batches, n_again) == (28, 10)  # behind batch 4 of epoch 3
    (zero, _), (one, _) = results
    assert zero == one


def test_a_loop_of_two_processes_is_one_run(ground, tmp_path):
    """One best, one file, one CSV; killed, it goes on from the backup to the same end."""
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    for folder in (unbroken, broken):
        folder.mkdir()
    zero, one = ground.results("jax_programs", "loop", 2, [str(unbroken), 30])

    shared = ("ran", "best", "best_epoch", "stopped", "rate", "weights", "files")
    rows = rows_of_one_run(unbroken, zero, one, shared)
    assert zero["files"] == [
        "backup",
        "best.safetensors",
        "best.safetensors.peakhold.json",
        "log.csv",
    ]
    assert zero["path"] == str(unbroken / "best.safetensors")
    assert weights_in(unbroken) == zero["weights"]

    killed = ground.run("jax_programs", "loop", 2, [str(broken), 30, 5])
    assert [one.status for one in killed] == [-9, -9]
    again = ground.results("jax_programs", "loop", 2, [str(broken), 30])

    for rank, end in enumerate((zero, one)):
        assert again[rank]["ran"] == end["ran"][again[rank]["ran"][0] :]
        assert 1 <= again[rank]["ran"][0] <= 5
        assert [again[rank][name] for name in shared[1:]] == [end[name] for name in shared[1:]]
    assert lines_of(broken / "log.csv") == rows


def weights_in(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "best.safetensors")["w"].tolist()


def test_a_state_in_parts_is_refused_before_the_first_batch(ground, tmp_path):
    ended = ground.run("jax_programs", "loop", 2, [str(tmp_path), 30, None, True])

    for one in ended:
        name, words = one.error
        assert name == "HostError"
        assert "expected a state that each process holds whole" in words
        assert "of shape (8,), in parts over 2 processes" in words
    assert sorted(path.name for path in tmp_path.iterdir()) in (["backup"], [])


def test_a_process_that_dies_ends_the_other(ground, tmp_path):
    """JAX itself ends it, or our error does, with the rank's name."""
    zero, one = ground.run("jax_programs", "left_alone", 2, [str(tmp_path)], timeout=60)

    assert one.status == -9
    assert zero.error is None or zero.error[0] == "WorkerLostError"
    assert zero.status != 0
    assert zero.seconds < 30
    if zero.error is not None:
        assert "rank 1" in zero.error[1]


@pytest.mark.parametrize("layout", ["data", "model"])
def test_fit_on_four_devices_of_one_process(keras_ground, tmp_path, layout):
    (report,) = keras_ground.results("jax_programs", "fit", 1, [str(tmp_path), 4, layout])

    assert report["best_epoch"] == 2
    assert report["best"] == min(report["val_loss"])
    assert report["in_parts"] == (layout == "model")
    assert sorted(map(str, report["weights"])) == sorted(map(str, report["file"]))


def test_fit_of_two_processes_is_one_run(keras_ground, tmp_path):
    """One best, one file, one CSV, on all; killed, it goes on from the backup to the same end."""
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    for folder in (unbroken, broken):
        folder.mkdir()
    zero, one = keras_ground.results("jax_programs", "fit", 2, [str(unbroken), 4])

    assert zero == one
    assert zero["shared"]
    assert zero["best_epoch"] == 2
    assert zero["best"] == min(zero["val_loss"])
    assert sorted(map(str, zero["weights"])) == sorted(map(str, zero["file"]))
    rows = lines_of(unbroken / "log.csv")
    assert [row.split(",")[0] for row in rows] == ["epoch", "0", "1", "2", "3"]

    killed = keras_ground.run("jax_programs", "fit", 2, [str(broken), 4, "data", 2])
    assert [one.status for one in killed] == [-9, -9]
    again = keras_ground.results("jax_programs", "fit", 2, [str(broken), 4])

    assert again[0] == again[1]
    assert again[0] == zero
    assert lines_of(broken / "log.csv") == rows


def test_fit_with_weights_in_parts_is_refused_before_the_first_batch(keras_ground, tmp_path):
    ended = keras_ground.run("jax_programs", "fit", 2, [str(tmp_path), 4, "model"])

    for one in ended:
        name, words = one.error
        assert name == "HostError"
        assert "got sequential/dense/kernel, of shape (8, 8), in parts over 2 processes" in words


def test_the_program_of_the_docs_is_one_run_in_two_processes(ground, tmp_path):
    page = pathlib.Path(__file__).parents[2] / "docs" / "how-to" / "workers-jax.md"
    zero, one = ground.results("jax_programs", "page", 2, [str(page), str(tmp_path)])

    assert zero == one
    best, best_epoch, stopped_epoch = zero
    assert best < 0.3
    assert 0 < best_epoch < stopped_epoch
    rows = lines_of(tmp_path / "m" / "log.csv")
    assert len(rows) == stopped_epoch + 2
    assert all(path.name != "previous" for path in (tmp_path / "m").iterdir())
