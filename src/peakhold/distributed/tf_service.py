"""Workers of a `tf.distribute` cluster: keys in TensorFlow's coordination service.

Rules of this file:

1. No collective: one of ours between the program's own would mix with them, and hangs where one
   worker is missing, which is what is to be found out.
2. `context.context()` and its `_collective_ops_server_def` are private; they stand here and nowhere
   else, and a test says that they are there. What is public (`strategy.gather`) is a collective,
   waits without a limit and can name nobody: there is no falling back on it.
3. A key cannot be written twice: `replace` deletes it first, and a reader waits a moment.
4. The service gives text only: values are written in base64.
5. Calls wait without Python's lock, in any thread: there is one context for all.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterable
from typing import Any, Final, final

__all__ = ["TensorFlowChannel", "tensorflow_channel", "tensorflow_group"]

_AT_ONCE_MS: Final = 20
"""The service knows no `try`: who asks for what is there waits no longer than an answer takes."""
_JOBS: Final = ("chief", "worker")
"""Those that train, in the order in which TensorFlow numbers them."""
_NOT_THERE: Final = frozenset({"DeadlineExceededError", "NotFoundError"})
_NOT_LOST: Final = frozenset(
    {"AlreadyExistsError", "InvalidArgumentError", "ResourceExhaustedError"}
)
"""A call that was wrong; whatever else the service answers, it is not there as it was."""


def tensorflow_group() -> Any:
    """The context of a cluster of several workers; None if there is none."""
    module = sys.modules.get("tensorflow.python.eager.context")
    context = None if module is None else module.context_safe()  # makes none
    server = getattr(context, "_collective_ops_server_def", None)
    if server is None:
        return None
    n_workers = sum(_sizes(server).values())
    return context if n_workers > 1 else None


def tensorflow_channel(context: Any) -> TensorFlowChannel | None:
    """The channel of the workers of this cluster; None for an evaluator, which is none of them."""
    server = context._collective_ops_server_def
    sizes = _sizes(server)
    if server.job_name not in sizes:
        return None
    before = 0 if server.job_name == _JOBS[0] else sizes[_JOBS[0]]
    return TensorFlowChannel(context, before + server.task_index, sum(sizes.values()))


def _sizes(server: Any) -> dict[str, int]:
    jobs = {job.name: len(job.tasks) for job in server.cluster.job}
    return {name: jobs.get(name, 0) for name in _JOBS}


@final
class TensorFlowChannel:
    """Keys in TensorFlow's coordination service.

    Args:
        context: TensorFlow's.
        rank: This worker's number.
        size: How many there are.
    """

    attempt = "0"
    """The service begins with the cluster, and without a key of an earlier one's."""

    def __init__(self, context: Any, rank: int, size: int) -> None:
        self._context, self.rank, self.size = context, rank, size

    def set(self, key: str, value: bytes) -> None:
        """Let all see a value."""
        self._call("set_config_key_value", key, base64.b64encode(value).decode())

    def replace(self, key: str, value: bytes) -> None:
        """As `set`, for a key that was written before."""
        self.delete([key])
        self.set(key, value)

    def get(self, key: str, seconds: float) -> bytes | None:
        """A value, if it is there in time."""
        try:
            text = self._call("get_config_key_value", key, max(int(seconds * 1000), _AT_ONCE_MS))
        except LookupError:
            return None
        return base64.b64decode(text)

    def delete(self, keys: Iterable[str]) -> None:
        """Forget keys, and what is below them."""
        for key in keys:
            self._call("delete_config_key_value", key)

    def another(self) -> TensorFlowChannel:
        """The same context: it may be called in several threads."""
        return TensorFlowChannel(self._context, self.rank, self.size)

    def close(self) -> None:
        """The context is the process's."""
        self._context = None

    def _call(self, method: str, *args: Any) -> Any:
        """What it returns; TensorFlow's own errors as Python's."""
        if self._context is None:
            raise ConnectionError("this connection was closed")
        try:
            return getattr(self._context, method)(*args)
        except Exception as error:
            kind = type(error).__name__  # of tf.errors, which are named by their status
            if not type(error).__module__.startswith("tensorflow.") or kind in _NOT_LOST:
                raise
            text = str(error).splitlines()[0] if str(error) else kind
            raise (LookupError if kind in _NOT_THERE else ConnectionError)(text) from error
