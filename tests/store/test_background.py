"""The writer thread: one, in order, ending when idle; errors come out where they are asked for."""

import threading

import pytest

from peakhold.errors import SaveError
from peakhold.files import background
from peakhold.store import Store


def test_jobs_run_in_order_in_one_thread():
    seen = []
    tasks = [
        background.submit(lambda i=i: seen.append((i, threading.get_ident()))) for i in range(50)
    ]
    for task in tasks:
        task.result(60)
    assert [i for i, _ in seen] == list(range(50))
    assert threading.get_ident() not in {ident for _, ident in seen}


def test_errors_and_values_come_out_of_result():
    assert background.submit(lambda: 42).result() == 42
    task = background.submit(lambda: 1 / 0)
    assert task.wait(60) and task.done and isinstance(task.error, ZeroDivisionError)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            task.result()


def test_a_result_that_takes_too_long():
    gate = threading.Event()
    task = background.submit(gate.wait)
    with pytest.raises(TimeoutError, match=r"0\.01 s"):
        task.result(0.01)
    gate.set()
    assert task.result(60)


def test_a_job_is_cancelled_only_before_it_begins():
    gate, entered = threading.Event(), threading.Event()
    running = background.submit(lambda: (entered.set(), gate.wait(60)))
    waiting = background.submit(lambda: pytest.fail("it was cancelled"))
    assert entered.wait(60)
    assert not running.cancel(KeyError())
    assert waiting.cancel(KeyError("mine")) and not waiting.cancel(KeyError())
    gate.set()
    running.result(60)
    with pytest.raises(KeyError, match="mine"):
        waiting.result()
    background.drain()


def test_many_threads_may_submit():
    counts = []

    def ask():
        for _ in range(100):
            background.submit(lambda: counts.append(1)).result(60)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    background.drain()
    assert len(counts) == 400


def test_without_threads_the_caller_does_the_work(tmp_path, monkeypatch):
    """At the very end of the interpreter no thread can be started."""

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with Store(tmp_path) as store:
        assert store.save(1, {"m": 1}).done
    monkeypatch.undo()
    assert background.submit(lambda: 1).result() == 1


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SaveError, match=r"got path=.*file"):
            Store(folder)
    deep = tmp_path / "a" / "b" / "c"
    Store(deep).close()
    assert deep.is_dir()
