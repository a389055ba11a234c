"""Stopping a process at every system call it makes, with nothing but `ptrace` through ctypes.

What strace's fault injection does (`-e inject=all:signal=KILL:when=N`), for a child that is forked from
a warmed-up parent, so that a run costs milliseconds and needs no package. All threads of the child
count. Linux on x86-64 and arm64; elsewhere `available` says no and the caller takes another way.
"""

import ctypes
import os
import platform
import signal
import struct
import sys

_TRACEME, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
_OPTIONS = 1 | 8 | 0x100000  # TRACESYSGOOD | TRACECLONE | EXITKILL
_WALL = 0x40000000
_ENTRY = 1
_BEGIN, _END = 0x7EAD0001, 0x7EAD0002  # closing these descriptors is what begins and ends the count

NAMES = {
    "x86_64": {0: "read", 1: "write", 3: "close", 74: "fsync", 82: "rename", 257: "openat", 258: "mkdirat",
               263: "unlinkat", 264: "renameat", 202: "futex", 221: "fadvise64", 295: "preadv",
               262: "newfstatat", 5: "fstat", 138: "fstatfs", 217: "getdents64", 56: "clone", 435: "clone3",
               9: "mmap", 10: "mprotect", 11: "munmap", 12: "brk", 28: "madvise", 318: "getrandom"},
    "aarch64": {63: "read", 64: "write", 57: "close", 82: "fsync", 38: "renameat", 56: "openat",
                34: "mkdirat", 35: "unlinkat", 98: "futex", 223: "fadvise64", 69: "preadv",
                79: "newfstatat", 80: "fstat", 44: "fstatfs", 61: "getdents64", 220: "clone",
                435: "clone3", 222: "mmap", 226: "mprotect", 215: "munmap", 214: "brk", 233: "madvise",
                278: "getrandom"},
}.get(platform.machine(), {})  # fmt: skip

# Calls that wait, and calls for memory: they change nothing on a disk.
NOT_FILES = frozenset({"futex", "mmap", "mprotect", "munmap", "brk", "madvise", "clone", "clone3",
                       "getrandom", *map(str, range(1000))})  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request, pid, address=0, data=0):
    result = _libc.ptrace(request, pid, address, data)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _mark(which):
    try:
        os.close(which)
    except OSError:
        pass


def begin():
    """In the child: from here on calls count."""
    _mark(_BEGIN)


def end():
    """In the child: from here on they do not."""
    _mark(_END)


def run(work, kill_at=0, skip=frozenset()):
    """Fork, run `work` under trace, and kill the child when it is about to make the N-th call.

    Returns the calls made between `begin()` and `end()` as (name, descriptor), and whether the child
    was killed. The call at which it is killed is not made. Calls in `skip` do not count: how often
    threads wait for each other differs from run to run, and a count without that does not.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _ptrace(_TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            work()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    os.waitpid(pid, _WALL)
    _ptrace(_SETOPTIONS, pid, 0, _OPTIONS)
    _ptrace(_SYSCALL, pid)
    return _follow(pid, kill_at, skip)


def _follow(pid, kill_at, skip):
    info = ctypes.create_string_buffer(88)
    calls, counting, killed = [], False, False
    while True:
        stopped, status = os.waitpid(-1, _WALL)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            if stopped == pid:
                failed = os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0
                assert not failed, "the child failed; its traceback is above"
                return calls, killed
            continue
        deliver, number = 0, os.WSTOPSIG(status)
        if number == signal.SIGTRAP | 0x80:
            _ptrace(_GET_SYSCALL_INFO, stopped, len(info), ctypes.addressof(info))
            if info.raw[0] == _ENTRY and not killed:
                call, argument = struct.unpack_from("QQ", info.raw, 24)
                name = NAMES.get(call, str(call))
                if name == "close" and argument in (_BEGIN, _END):
                    counting = argument == _BEGIN
                elif counting and name not in skip:
                    calls.append((name, argument))
                    if len(calls) == kill_at:
                        killed = True
                        os.kill(pid, signal.SIGKILL)
        elif number not in (signal.SIGTRAP, signal.SIGSTOP):
            deliver = number
        try:
            _ptrace(_SYSCALL, stopped, 0, deliver)
        except ProcessLookupError:
            pass  # it is dead already


def available():
    """True if children can be traced here."""
    if not NAMES or sys.platform != "linux":
        return False
    try:
        return len(run(lambda: (begin(), os.getppid(), end()))[0]) >= 1
    except OSError:
        return False
