"""What every test shares: which backend this process is for, and torch before TensorFlow.

Most of the suite's time is that of small models that a framework compiles for one test each. What
is set here makes that quicker, and nothing else different: the same programs are compiled and run.
"""

import gc
import os
import shutil
import signal
import sys

import pytest

import child_runs

pytest.register_assert_rewrite("behaviours", "free_names", "keras_helpers", "replaying")

BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")
CHILDREN = child_runs.prepare()
"""Where processes that tests start report what they trained."""
if BACKEND == "torch":
    import torch

    torch.set_num_threads(1)


if os.environ.get("KERAS_BACKEND") == "tensorflow":
    import tensorflow as tf

    # Rewriting the graph of each model takes a quarter of a short fit, and makes it no faster. The
    # programs that tests start as processes of their own do it, as everywhere.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(scope="session", autouse=True)
def _what_jax_has_compiled_it_finds_again(tmp_path_factory):
    """Many tests train the same small model: JAX's own cache, for this process alone."""
    if BACKEND != "jax":
        return
    import jax

    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="session", autouse=True)
def _that_tmp_is_held_in_memory_has_been_said():
    """As on Debian 13: a notice, once in a process, and what is printed is compared here."""
    from peakhold.runtime.narration import _told

    _told.add("E10")


def pytest_collection_modifyitems(config, items):
    """What a framework has no part in runs where models compile quickest."""
    if BACKEND == "torch":
        return
    elsewhere = [item for item in items if item.get_closest_marker("torch_is_enough")]
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = [item for item in items if item not in elsewhere]


def pytest_collection_finish(session):
    """What imports have made stays: a collection, which many tests ask for, need not look at it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _what_the_tests_before_have_left_is_not_looked_at():
    """TensorFlow keeps what it has traced: late in a run a collection would take eight seconds."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _what_was_recorded_is_decided_again():
    """Every run of every test, taken again by its policies (`replaying.py`, `child_runs.py`)."""
    from peakhold.runtime.listening import listening
    from replaying import FromTheRecord, Replay

    replay, recorded = Replay(), FromTheRecord()
    with listening(replay), listening(recorded):
        yield
    assert replay.wrong == []
    assert recorded.wrong == []
    in_children = child_runs.Told(CHILDREN).wrong
    for path, _ in in_children:
        os.unlink(path)  # told once
    assert [words for _, words in in_children] == []


RECORDS = []
"""Records of runs of this process that have ended since somebody looked."""
AGAIN = {"records": 0, "steps": 0}


@pytest.fixture(scope="session", autouse=True)
def _records_of_runs_are_noted():
    record = sys.modules.get("peakhold.run.record")
    if record is None:  # no test that was collected knows a run
        yield
        return
    close = record.Record.close

    def and_note(self):
        close(self)
        RECORDS.append(self._at.events)

    record.Record.close = and_note
    yield
    record.Record.close = close


@pytest.fixture(autouse=True)
def _what_a_run_has_left_is_decided_again(request):
    """Every run of every test, from the file in its folder (`replaying.py: FromTheFile`).

    In `tests/exact` also those of other processes, which are killed.
    """
    yield
    paths = [*RECORDS]
    RECORDS.clear()
    if "exact" in request.path.parts and "tmp_path" in request.node.funcargs:
        paths += request.node.funcargs["tmp_path"].rglob("events.jsonl")
    if not paths:
        return
    from replaying import FromTheFile

    taken = FromTheFile()
    for path in dict.fromkeys(map(str, paths)):
        taken(path)
    AGAIN["records"] += taken.records
    AGAIN["steps"] += taken.steps
    assert taken.wrong == []


@pytest.fixture(autouse=True)
def _what_is_said_points_at_the_users_line_and_speaks_of_what_there_is(request, monkeypatch):
    """Every warning, hint and line of every test (`pointing.py`, `placing.py`)."""
    from peakhold import errors, speech
    from placing import Placing
    from pointing import Pointing, note

    placing = Placing()
    pointing = Pointing(placing.warned)
    monkeypatch.setattr(speech, "warnings", pointing)
    monkeypatch.setattr(speech, "say", placing.say)
    monkeypatch.setattr(errors, "_with_hint", placing.with_hint)
    yield
    note(pointing, request.node.nodeid)
    test = request.node.nodeid.partition("[")[0]
    WARNED.setdefault(test, set()).update(site for site, *_ in pointing.seen)
    assert pointing.wrong == []
    assert placing.wrong == []


WARNED = {}
"""For each test, the places of ours that have warned in any of its cases."""


def pytest_sessionfinish(session):
    """A test that `warning_sites.py` names for a warning still shows it, where all of it has run."""
    from warning_sites import missed

    option = session.config.option
    if option.keyword or option.markexpr or session.testsfailed or "::" in str(session.config.args):
        return
    for line in missed(WARNED):
        print(line)
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter):
    """One process of the suite stays under 3 GB: say how much it took, and fail beyond."""
    import resource

    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    terminalreporter.write_line(f"peak memory: {peak_gb:.2f} GB")
    if AGAIN["records"]:
        terminalreporter.write_line(
            f"taken again from files: {AGAIN['steps']} steps of {AGAIN['records']} records"
        )
    told = child_runs.Told(CHILDREN)
    if told.processes:
        terminalreporter.write_line(
            f"taken again in processes of tests: {told.steps} steps of {told.runs} runs, in "
            f"{told.processes} processes"
        )


def pytest_unconfigure(config):
    """Children are over."""
    shutil.rmtree(CHILDREN, ignore_errors=True)


# A shell starts background jobs with SIGINT ignored, which Peakhold respects: the tests of Ctrl-C
# need it as a terminal has it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def hold():
    """Keeps the writer thread busy while a save must be under way."""
    from leftovers import Hold

    holds = Hold()
    yield holds
    holds.open()


@pytest.fixture(autouse=True)
def _same_seed_everywhere(request):
    """Tests of Keras draw the same numbers whatever ran before them."""
    folders = {"keras", "programs"}
    if folders & set(request.path.parts):
        import keras

        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(7)
