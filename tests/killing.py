"""Where to kill a process: before a call to the disk, or at any time."""

import os
import signal
import threading


def moments(rng, numbers):
    """Where to kill, without end: half of it before a call to the disk, half at any time.

    Args:
        rng: Draws them.
        numbers: The calls and seconds of an unbroken run.
    """
    while True:
        yield f"call:{rng.randint(1, numbers['calls'])}"
        yield f"time:{rng.uniform(0, numbers['seconds']):.4f}"


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def count_calls(fatal):
    """Count the calls that change the disk; the fatal one is not made any more."""
    made = [0]
    lock = threading.Lock()

    def counted(call):
        def wrapped(*args, **kwargs):
            with lock:
                made[0] += 1
                if made[0] == fatal:
                    die()
            return call(*args, **kwargs)

        return wrapped

    for name in ("write", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "link"):
        setattr(os, name, counted(getattr(os, name)))
    return made


def armed(how, when):
    """Have this process die there; gives the count of its calls to the disk, which goes on.

    Args:
        how: `call` or `time`; anything else lives.
        when: Before which call, or after how many seconds.
    """
    made = count_calls(int(when) if how == "call" else 0)
    if how == "time":
        timer = threading.Timer(float(when), die)
        timer.daemon = True
        timer.start()
    return made
