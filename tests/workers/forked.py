"""Workers that are real processes, forked where an import has ended.

TensorFlow and JAX take seconds to import and do not survive a fork once they run; until the first
device is asked for there is nothing to survive. So one process imports all and runs nothing, in a
network of its own where the machine allows it, and is forked once for each worker.

    ground = Ground(["keras"], {"KERAS_BACKEND": "jax"})
    ground.run("jax_programs", "train", size=2, arguments=["folder"])   # by rank, what it returned

Each worker has a watchdog that prints all stacks; none outlives the call that began it.
"""

import contextlib
import faulthandler
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
QUIET = {
    "OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2", "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "",
}  # fmt: skip


class Ended:
    """How a worker has ended: `result`, or `error` with its traceback, or a signal in `status`."""

    def __init__(self, rank, status, answer, words, seconds):
        self.rank, self.status, self.words, self.seconds = rank, status, words, seconds
        self.result, self.error = answer if answer is not None else (None, None)

    def __repr__(self):
        return f"rank {self.rank}: {self.status}, {self.result}, {self.error}\n{self.words}"


def without_a_network(command):
    """The command in a network of its own, where only loopback is."""
    wrapped = ["unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    with contextlib.suppress(OSError):
        if subprocess.run([*wrapped, "true"], capture_output=True, check=False).returncode == 0:
            return [*wrapped, *command]
    return command


class Ground:
    """A process that has imported modules, and forks.

    Args:
        modules: What it imports.
        environment: Of it, beside what keeps frameworks quiet.
    """

    def __init__(self, modules, environment):
        command = [sys.executable, os.path.abspath(__file__), json.dumps(modules)]
        self._process = subprocess.Popen(
            without_a_network(command),
            env={**os.environ, **QUIET, **environment},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, module, function, size=2, arguments=(), *, timeout=120):
        """Call a function once for each worker; by rank, how each has ended."""
        asked = [module, function, size, list(arguments), timeout]
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the process that forks has died; its last words are above"
        return [Ended(rank, *one) for rank, one in enumerate(json.loads(answer))]

    def results(self, *args, **named):
        """As `run`; what each has returned, where all have ended well."""
        ended = self.run(*args, **named)
        assert all(one.status == 0 and one.error is None for one in ended), ended
        return [one.result for one in ended]

    def close(self):
        """No process is left behind."""
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


# What runs in the process that forks


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _work(module, function, rank, ports, arguments, timeout, answer):
    """One worker, in its own process: never returns."""
    faulthandler.dump_traceback_later(timeout, exit=True)
    status = 1
    try:
        called = getattr(importlib.import_module(module), function)
        _write(answer, [called(rank, ports, *arguments), None])
        status = 0
    except BaseException as error:
        traceback.print_exc()
        _write(answer, [None, [type(error).__name__, str(error)]])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _write(answer, value):
    """In a file of its own in memory: a pipe that nobody empties takes 64 KiB."""
    with os.fdopen(os.dup(answer), "wb") as file:
        file.write(json.dumps(value).encode())


def _serve():
    sys.path[:0] = [HERE, os.path.dirname(HERE)]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in json.loads(sys.argv[1]):
        importlib.import_module(name)
    for line in sys.stdin:
        module, function, size, arguments, timeout = json.loads(line)
        importlib.import_module(module)
        n_threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
        assert n_threads == 1, f"{n_threads} threads: what was imported runs already"
        ports, workers, began = _free_ports(size), [], time.monotonic()
        for rank in range(size):
            words, answer = os.memfd_create("words"), os.memfd_create("answer")
            pid = os.fork()
            if not pid:
                os.dup2(words, 1)
                os.dup2(words, 2)
                _work(module, function, rank, ports, arguments, timeout, answer)
            workers.append((pid, answer, words))
        print(json.dumps(_wait(workers, began, timeout)), file=answers, flush=True)


def _wait(workers, began, timeout):
    ended = {}
    while len(ended) < len(workers):
        for pid, answered, words in workers:
            if pid in ended:
                continue
            if time.monotonic() - began > timeout + 30:
                os.kill(pid, signal.SIGKILL)
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                with os.fdopen(answered, "rb") as file:
                    file.seek(0)
                    answer = file.read()
                with os.fdopen(words, "rb") as file:
                    file.seek(0)
                    said = file.read()[-6000:].decode(errors="replace")
                code = os.waitstatus_to_exitcode(status)
                answer = json.loads(answer) if answer else None
                ended[pid] = [code, answer, said, time.monotonic() - began]
        time.sleep(0.01)
    return [ended[pid] for pid, _, _ in workers]


if __name__ == "__main__":
    _serve()
