"""The health check of a container: progress, not life; this host's runs, not others'."""

import json
import os
import re
import socket
import subprocess
import sys
import time

import pytest

from peakhold.health import health_of, main
from peakhold.ledger import RunFolder

HOUR = 3600


class Training:
    """A run that is being trained, as far as its folder shows."""

    def __init__(self, path):
        self.at = RunFolder(path)
        self.owned = self.at.own()

    def beats(self, **members):
        now = time.time()
        beat = {
            "kind": "heartbeat", "alive_at": now, "progressed_at": now, "pid": os.getpid(),
            "host": socket.gethostname(), "since": now - 9 * HOUR, "ended": None, **members,
        }  # fmt: skip
        with open(self.at.heartbeat, "w") as file:
            file.write(json.dumps(beat) + "\n")
        return self

    def owned_since(self, when):
        os.utime(self.at.at(".lock"), (when, when))
        return self

    def release(self):
        self.owned.release()


@pytest.fixture
def training(tmp_path):
    made = []

    def make(name="digits"):
        made.append(Training(tmp_path / name))
        return made[-1].owned_since(time.time() - 9 * HOUR).beats()

    yield make
    for one in made:
        one.release()


def hanging(path, **arguments):
    return [line.partition(":")[0] for line in health_of(path, **arguments).hanging]


def test_a_run_that_gets_on_is_well(training, tmp_path, capsys):
    training()

    assert main([str(tmp_path), "--begun"]) == 0
    assert re.fullmatch(rf"{tmp_path}/digits: got on \d+ s ago\n", capsys.readouterr().out)


def test_a_run_that_is_alive_without_progress_is_not(training, tmp_path, capsys):
    training().beats(progressed_at=time.time() - 1000)

    assert main([str(tmp_path)]) == 1
    assert re.fullmatch(rf"{tmp_path}/digits: no progress for 10\d\d s\n", capsys.readouterr().out)
    assert main([str(tmp_path), "--max-age", str(HOUR)]) == 0


def test_the_folder_may_be_the_runs_own_or_further_above(training, tmp_path):
    run = training("a/b/digits").beats(progressed_at=time.time() - HOUR)

    assert hanging(run.at.path) == hanging(tmp_path / "a") == hanging(tmp_path) == [run.at.path]


def test_of_several_runs_each_must_get_on(training, tmp_path):
    training("one")
    training("two").beats(progressed_at=time.time() - HOUR)

    assert hanging(tmp_path) == [str(tmp_path / "two")]


def test_a_later_run_in_the_folder_of_an_earlier_one_is_asked_for_itself(training, tmp_path):
    training("digits").beats(progressed_at=time.time() - HOUR).release()
    later = training("digits/run-2")
    assert hanging(tmp_path) == []

    later.beats(progressed_at=time.time() - HOUR)
    assert hanging(tmp_path) == [later.at.path]


def test_nothing_has_begun_yet(tmp_path):
    assert main([str(tmp_path)]) == 0
    assert main([str(tmp_path), "--begun"]) == 1


def test_a_run_that_has_begun_has_its_time_until_its_first_batch(training, tmp_path):
    run = training().beats(progressed_at=None, since=time.time() - 10)
    assert hanging(tmp_path) == []

    run.beats(progressed_at=None)
    assert hanging(tmp_path) == [str(tmp_path / "digits")]


def test_what_was_killed_is_no_fault_of_this_container(training, tmp_path):
    run = training().beats(progressed_at=time.time() - HOUR, alive_at=time.time() - HOUR)
    run.release()

    assert main([str(tmp_path)]) == 0


def test_who_goes_on_has_time_to_load_what_was_saved(training, tmp_path):
    """The heartbeat that lies there is still that of the process that was killed."""
    run = training().beats(progressed_at=time.time() - HOUR, alive_at=time.time() - HOUR)
    assert hanging(tmp_path) == [str(tmp_path / "digits")]

    run.release()
    run.owned = run.at.own()
    assert main([str(tmp_path), "--begun"]) == 0


def test_a_run_that_has_ended_is_well_also_while_its_folder_is_owned(training, tmp_path):
    training().beats(progressed_at=time.time() - HOUR, ended="no improvement")

    assert main([str(tmp_path), "--begun"]) == 0


def test_others_runs_in_a_shared_folder_are_theirs(training, tmp_path):
    training().beats(progressed_at=time.time() - HOUR, host="another")

    assert main([str(tmp_path)]) == 0
    assert main([str(tmp_path), "--begun"]) == 1


def test_a_heartbeat_that_is_none_is_nobodys(training, tmp_path):
    run = training()
    for content in (b"", b"{", b'{"kind":"heartbeat","alive_at":1,"pid":1}'):
        with open(run.at.heartbeat, "wb") as file:
            file.write(content)

        assert main([str(tmp_path)]) == 0
    assert hanging(tmp_path) == []
    run.beats(progressed_at="now", since="then")
    assert hanging(tmp_path) == [str(tmp_path / "digits")]


def test_a_folder_that_is_not_there_is_a_mistake(tmp_path, capsys):
    assert main([str(tmp_path / "rums")]) == 1
    assert "rums: No such file" in capsys.readouterr().err


def test_the_command_needs_no_framework_and_leaves_nothing_behind(training, tmp_path):
    training()
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    code = (
        "import sys; from peakhold.health import main; code = main(sys.argv[1:]); "
        "print(*{'torch', 'keras', 'jax', 'tensorflow'} & set(sys.modules)); sys.exit(code)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )

    assert ran.returncode == 0, ran.stderr
    assert re.fullmatch(rf"{tmp_path}/digits: got on \d+ s ago\n\n", ran.stdout), ran.stdout
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before
