"""`docker stop` at any moment: the next start goes on, and ends with the bits of an unbroken run.

The unbroken run is one outside of any container: inside and outside, results are the same.
"""

import collections
import itertools
import json
import os
import pathlib
import random
import subprocess
import sys

import pytest

import containers
from deploy.example_runs import ARGUMENTS, N_EPOCHS, left, n_epochs

pytestmark = [containers.needs_containers(), pytest.mark.timeout(3600)]
# `Run` ends with 75 once it trains; before, SIGTERM ends Python. SIGKILL is for who does not end.
INTERRUPTED, TERMINATED, KILLED, ENDED = 75, 143, 137, 0


def n_modules(container):
    """How far its imports are: shared libraries that Python has loaded."""
    for pid in containers.children(container.init):
        try:
            lines = pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines()
        except OSError:
            return 0
        return len({line.split()[-1] for line in lines if ".so" in line})
    return 0


def in_imports(rng):
    """A moment while it imports, told by what is loaded."""
    n = rng.randint(0, 60)
    return f"{n} libraries", lambda container, runs: n_modules(container) >= n


def in_training(rng):
    """A moment while it trains, told by the epochs that have ended."""
    n = rng.randint(1, N_EPOCHS // 2)
    return f"{n} epochs", lambda container, runs: n_epochs(runs) >= n


def stop_and_go_on(start, when, grace=60):
    """Start it, stop it then, start it again; the exit code of the stop, and what was said then."""
    with start() as container:
        container.until_entered()
        container.until(lambda: when(container))
        with container.paused():
            health = container.healthcheck()
        code = container.stop(grace)
        assert code in {INTERRUPTED, TERMINATED, KILLED, ENDED}, container.said
    if code == ENDED:
        return code, container.said, health
    with start() as container:
        assert container.wait() == ENDED, container.said
    return code, container.said, health


def test_stopped_in_training(image, outside, runs):
    name, when = in_training(random.Random(os.urandom(4)))
    code, _, (status, health) = stop_and_go_on(
        lambda: image.start([(runs, "/runs")], ARGUMENTS), lambda container: when(container, runs)
    )

    assert code == INTERRUPTED and left(runs) == outside, name
    assert status == 0 and health.startswith("/runs/example: got on "), health
    beat = json.loads((runs / "example" / "heartbeat").read_text())
    assert beat["pid"] > 1, "PID 1 is the init"


def test_the_demo_stopped_in_its_imports_ends_with_the_numbers_of_one_outside(
    image, runs, tmp_path
):
    loop = ["-m", "peakhold.demo.loop"]
    outside = subprocess.run(
        [sys.executable, *loop, tmp_path / "outside"],
        check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ).stdout  # fmt: skip
    entry = [*image.says.entry[:-1], *loop, "/runs/demo"]
    name, when = in_imports(random.Random(os.urandom(4)))
    code, inside, health = stop_and_go_on(
        lambda: image.start([(runs, "/runs")], entry=entry), lambda container: when(container, runs)
    )

    assert code == TERMINATED and health == (0, "nothing runs here now\n"), name
    assert inside == outside and len(inside.strip()) == 16


@pytest.mark.exhaustive
def test_stopped_at_twenty_random_moments(image, outside, tmp_path):
    rng, hit = random.Random(os.urandom(4)), collections.Counter()
    for n, moment in enumerate(itertools.cycle([in_imports, in_training])):
        runs = tmp_path / str(n)
        runs.mkdir()
        name, when = moment(rng)
        code, *_ = stop_and_go_on(
            lambda runs=runs: image.start([(runs, "/runs")], ARGUMENTS),
            lambda container, runs=runs, when=when: when(container, runs),
            grace=10,
        )
        assert left(runs) == outside, name
        hit[code] += code != ENDED
        if hit.total() == 20:
            break

    with image.start([(runs, "/runs")]) as container:  # a start too many is no failure
        assert container.wait() == ENDED and "nothing is left to do" in container.said
    print(
        f"\nSIGTERM to PID 1: {hit[TERMINATED]} before training, {hit[INTERRUPTED]} in it, "
        f"{hit[KILLED]} killed 10 s later; all resumed, with the same bits"
    )
    assert min(hit[TERMINATED], hit[INTERRUPTED]) >= 5


# Why there is an init

BLOCKED = "import sys; open('/runs/said', 'w').write('here'); open('/runs/go').read(); sys.exit(7)"


@pytest.mark.parametrize(
    ("init", "code"), [([], 7), (["/usr/bin/tini", "-s", "--"], TERMINATED)], ids=["none", "tini"]
)
def test_before_a_handler_stands_sigterm_reaches_python_through_an_init_only(
    image, runs, init, code
):
    os.mkfifo(runs / "go")
    os.chmod(runs / "go", 0o666)
    with image.start([(runs, "/runs")], entry=[*init, "python", "-c", BLOCKED]) as container:
        container.until(lambda: (runs / "said").exists())
        container.signal(15)
        if not init:  # it has not been told anything: it goes on when it can
            with open(runs / "go", "w"):
                pass
        assert container.wait() == code, container.said


# Without one

LOOP = """
import sys
import numpy as np
import peakhold

weights = {"w": np.zeros(2)}
host = peakhold.LoopHost(get_state=lambda: weights, set_state=weights.update)
callbacks = peakhold.CallbackList(
    peakhold.BackupAndRestore("/runs/backup", save_freq=False), host=host, epochs=2, verbose=0
)
callbacks.on_train_begin()
print("begins with", weights["w"][0], flush=True)
if weights["w"][0]:
    sys.exit()
for epoch in range(callbacks.initial_epoch, 2):
    callbacks.on_epoch_begin(epoch)
    for batch in range(100_000):
        callbacks.on_train_batch_begin(batch)
        weights["w"] = weights["w"] + 1
        callbacks.on_train_batch_end(batch)
        if batch == 1000:
            open("/runs/trains", "w").close()
    callbacks.on_epoch_end(epoch)
callbacks.on_train_end()
"""


def test_a_script_that_is_pid_1_itself_ends_once_it_is_backed_up(image, runs):
    """A signal that PID 1 sends to itself is lost, too, where no handler stands."""
    with image.start([(runs, "/runs")], entry=["python", "-c", LOOP]) as container:
        container.until(lambda: (runs / "trains").exists())
        assert container.stop() == TERMINATED, container.said
    assert container.said == "begins with 0.0\n"

    with image.start([(runs, "/runs")], entry=["python", "-c", LOOP]) as container:
        container.wait()
    assert float(container.said.split()[2]) >= 1000, container.said
