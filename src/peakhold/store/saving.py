"""The pieces of a save: what is asked for, what it becomes, what is counted."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, final

from peakhold.errors import InvalidArgumentError, SaveError, SaveReplacedError
from peakhold.files import background
from peakhold.snapshots.host_buffers import HostBuffers, PartDraft
from peakhold.snapshots.plan import Planner
from peakhold.store.entry import Entry
from peakhold.store.manifest import is_plain_name

__all__ = ["Pending", "Request", "Slot", "StoreStats", "check_parts"]

_MAX_STEP: Final = 10**18 - 1


@final
@dataclass(frozen=True, slots=True)
class StoreStats:
    """What a store has done since it was opened."""

    asked: int = 0
    """Calls of `save` that were accepted."""
    committed: int = 0
    """Saves that are durable."""
    failed: int = 0
    """Saves that went wrong."""
    replaced: int = 0
    """Saves whose place a newer one took before they were written."""
    waited: int = 0
    """Saves that had to wait for an earlier one."""
    blocked_s: float = 0.0
    """Seconds that all calls of `save` took together: what training lost."""
    last_blocked_s: float = 0.0
    """Seconds that the latest call of `save` took, waits included."""
    last_wait_s: float = 0.0
    """Seconds of these spent waiting for an earlier save."""
    last_write_s: float = 0.0
    """Seconds that the latest committed save took from the start of writing to durable."""


@final
class Pending:
    """A save that was asked for; `result()` waits until it is durable.

    Args:
        step: The step that is saved.
        work: Called in the writer thread, with this.
    """

    def __init__(self, step: int, work: Callable[[Pending], Entry]) -> None:
        self.step = step
        """The step that is saved."""
        self.task = background.Task(partial(work, self))
        """What the writer thread runs."""
        self.told = False
        """True when somebody has seen the outcome."""
        self.abandoned = False
        """True if nobody promises any more that the arrays stay as they are: do not commit them."""

    def abandon(self, *, copied: bool) -> None:
        """The call of `save` was interrupted, so nobody will ever ask for the outcome.

        What was copied and is being written is written; what was not copied may change from here
        on.
        """
        self.told = True
        self.abandoned = not copied
        self.task.cancel(
            SaveError.for_path(
                f"step {self.step}", "it was interrupted", expected="a save that is handed over"
            )
        )

    def check(self, folder: str) -> None:
        """Before the commit: do the arrays still hold what was to be saved?

        Raises:
            SaveError: If nobody promises it.
        """
        if self.abandoned:
            raise SaveError.for_path(
                folder,
                f"the save of step {self.step} was interrupted",
                expected="arrays that do not change while they are written",
            )

    @property
    def done(self) -> bool:
        """True when it is committed, failed or replaced."""
        return self.task.done

    @property
    def replaced(self) -> bool:
        """True if a newer save took its place."""
        return isinstance(self.task.error, SaveReplacedError)

    @property
    def failure(self) -> BaseException | None:
        """What went wrong, if the save is over and went wrong."""
        error = self.task.error
        return None if isinstance(error, SaveReplacedError) else error

    def result(self, timeout_s: float | None = None) -> Entry:
        """Wait until the checkpoint is durable.

        Args:
            timeout_s: Seconds to wait at most; None waits as long as it takes.

        Returns:
            The entry of the checkpoint.

        Raises:
            SaveError: If it could not be written; nothing of it is visible.
            SaveReplacedError: If a newer save took its place.
            TimeoutError: If it is not durable in time; it goes on.
            StoreForkedError: In a forked child.
        """
        try:
            return self.task.result(timeout_s)
        finally:
            self.told = self.task.done

    def __repr__(self) -> str:
        error = self.task.error
        state = "under way" if not self.done else "committed" if error is None else repr(error)
        return f"Pending(step={self.step}, {state})"


@final
class Slot:
    """Host buffers and the save that uses them. Free again when that save is done."""

    def __init__(self) -> None:
        self.buffers = HostBuffers()
        self.pending: Pending | None = None

    @property
    def free(self) -> bool:
        """True if nothing refers to the buffers."""
        return self.pending is None or self.pending.done


@final
@dataclass(frozen=True, slots=True)
class Request:
    """What `save` was asked to say of the checkpoint, checked."""

    step: int
    epoch: int | None
    metrics: dict[str, float]
    reason: str | None
    refers_to: tuple[int, ...]

    @classmethod
    def checked(
        cls,
        step: int,
        epoch: int | None,
        metrics: Mapping[str, float] | None,
        reason: Any,
        refers_to: Iterable[int],
    ) -> Request:
        """Check each argument, and turn NumPy's and frameworks' numbers into Python's."""
        if reason is not None and not isinstance(reason, str):
            raise InvalidArgumentError.for_argument("reason", reason, "a string or None")
        return cls(
            step=_index("step", step),
            epoch=None if epoch is None else _index("epoch", epoch),
            metrics={_metric_name(name): _metric(name, v) for name, v in (metrics or {}).items()},
            reason=reason,
            refers_to=_steps(refers_to),
        )


def _steps(refers_to: Any) -> tuple[int, ...]:
    if isinstance(refers_to, (str, bytes)) or not isinstance(refers_to, Iterable):
        raise InvalidArgumentError.for_argument(
            "refers_to", refers_to, "steps", hint="pass a list, such as [42]."
        )
    return tuple(sorted({_index("refers_to", step) for step in refers_to}))


def _index(name: str, value: Any) -> int:
    expected = "an int of at least 0"
    try:
        number = operator.index(value)
    except TypeError as exc:
        raise InvalidArgumentError.for_argument(name, value, expected) from exc
    if isinstance(value, bool) or not 0 <= number <= _MAX_STEP:
        raise InvalidArgumentError.for_argument(name, value, expected)
    return number


def _metric_name(name: Any) -> str:
    if not isinstance(name, str):
        raise InvalidArgumentError.for_argument("metrics", name, "names that are strings")
    return name


def _metric(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as exc:
        raise InvalidArgumentError.for_argument(
            f"metrics[{name!r}]", value, "one number", hint="save its mean, or leave it out."
        ) from exc


def check_parts(parts: Any, planner: Planner) -> list[PartDraft]:
    """Check the names of the parts and flatten their trees.

    Args:
        parts: What `save` was given.
        planner: Knows what the last ones looked like.

    Raises:
        InvalidArgumentError: If a name cannot be a file's name, or a leaf cannot be saved.
    """
    if not (isinstance(parts, Mapping) and parts):
        raise InvalidArgumentError.for_argument(
            "parts",
            type(parts).__name__ if parts else parts,
            "a mapping with at least one part",
            hint="pass {'model': state}.",
        )
    seen = {"manifest"}  # manifest.json is ours
    for name in parts:
        if not isinstance(name, str) or not is_plain_name(name) or name.lower() in seen:
            raise InvalidArgumentError.for_argument(
                "parts",
                name,
                "names of letters, digits, '.', '_' and '-' that start with a letter or digit, "
                "differ in more than case, and are not 'manifest'",
            )
        seen.add(name.lower())
    return planner.draft(parts)
