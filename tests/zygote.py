"""Processes that begin where an import has ended: quick victims, on frameworks that do not fork.

TensorFlow and JAX do not survive a fork once they run: the threads of their pools stay behind. Until
the first device is asked for there are none. So a process imports everything, runs nothing, and is
forked once for each victim, which then lives and ends as a process of its own: its devices, threads,
compilations and files are made in it. That there is one thread only is looked at before each fork.
"""

import atexit
import contextlib
import faulthandler
import gc
import importlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import traceback
import warnings

NUMBER = struct.Struct("q")


def environment_of(backend):
    """What the processes of a backend find, beside what is here."""
    return {
        **os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"
    }  # fmt: skip


class Zygote:
    """A process that has imported a module, and forks to call its `main`.

    Args:
        module: Its name.
        environment: Of the process.
    """

    def __init__(self, module, environment):
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, module, str(theirs.fileno())],
                env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
            )  # fmt: skip
        atexit.register(self.close)

    def run(self, *arguments, timeout=300):
        """Call `main(*arguments)` in a process of its own; returns its exit status."""
        self._socket.sendall(json.dumps(arguments).encode() + b"\n")
        pid = self._read(timeout)
        try:
            return self._read(timeout)
        except TimeoutError:
            os.kill(pid, signal.SIGABRT)  # `faulthandler` shows where it hangs
            self._read(60)
            raise

    def _read(self, timeout):
        self._socket.settimeout(timeout)
        answer = self._socket.recv(NUMBER.size, socket.MSG_WAITALL)
        assert answer, "the process that forks has died; its last words are above"
        return NUMBER.unpack(answer)[0]

    def close(self):
        """End it."""
        self._socket.close()
        self._process.wait(60)


def _serve(module, descriptor):
    faulthandler.enable()
    warnings.filterwarnings("ignore", ".*fork.*")
    main = importlib.import_module(module).main
    if "keras" in sys.modules:  # it would import it in each victim, for seconds
        with contextlib.suppress(ImportError):
            importlib.import_module("tensorflow")
    gc.collect()
    gc.freeze()  # a collection in a victim would touch, and so copy, every page
    with socket.socket(fileno=descriptor) as line, line.makefile() as requests:
        for request in requests:
            _check_that_nothing_runs()
            pid = os.fork()
            if pid == 0:
                return _live(main, json.loads(request))
            line.sendall(NUMBER.pack(pid))
            line.sendall(NUMBER.pack(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    return 0


def _check_that_nothing_runs():
    tasks = "/proc/self/task"
    n_threads = len(os.listdir(tasks)) if os.path.isdir(tasks) else 1
    assert n_threads == 1, f"{n_threads} threads: an import has begun to run something"


def _live(main, arguments):
    try:
        main(*arguments)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_serve(sys.argv[1], int(sys.argv[2])))
