"""Which workers a run has: found when it begins.

Rules of this file:

1. What the user says counts: `workers=`, or `alone()`.
2. Else a group that the framework of this run has set up, if there is more than one process in it.
3. No framework is imported here: one that is not loaded has no group.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final

from peakhold.distributed.contract import Channel, Coordinator
from peakhold.distributed.jax_service import jax_channel, jax_group
from peakhold.distributed.local import LocalCoordinator
from peakhold.distributed.tf_service import tensorflow_channel, tensorflow_group
from peakhold.distributed.torch_store import torch_channel, torch_group
from peakhold.distributed.workers import Workers

__all__ = ["alone", "coordinator_for", "is_alone"]

_alone: ContextVar[bool] = ContextVar("peakhold_alone", default=False)

_Engine = tuple[Callable[[], Any], Callable[[Any], Channel | None]]
"""What gives the group that is there now, or None; and a channel of that group."""

_ENGINES: Final[Mapping[str, _Engine]] = {
    "torch": (torch_group, torch_channel),
    "jax": (jax_group, jax_channel),
    "tensorflow": (tensorflow_group, tensorflow_channel),
}
"""By the framework's name, as a host tells its versions."""

_channels: dict[str, tuple[Any, Channel | None]] = {}
"""Of this process, by engine: the group, and its channel. Runs are counted by a channel, so a group
has one for good; another group, after the first was shut down, has one of its own."""


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Runs that begin in this block are of this process alone, whatever group it is in.

    For hyperparameter searches that give each process a model of its own. Paths must then differ.

    Example:
        >>> from peakhold import CallbackList, TerminateOnNaN
        >>> with alone():
        ...     callbacks = CallbackList([TerminateOnNaN()])
        ...     callbacks.on_train_begin()
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def is_alone() -> bool:
    """Whether the user has said so."""
    return _alone.get()


def coordinator_for(
    given: Any, frameworks: Mapping[str, Any], where: Callable[[], str]
) -> Coordinator:
    """What the workers of a run that begins now agree by.

    Args:
        given: What the user passed as `workers=`: a coordinator, a channel, or None.
        frameworks: What the host is of, by name; its own comes first.
        where: Says where this worker is.
    """
    if given is not None:
        found: Coordinator = Workers(given, where=where) if hasattr(given, "another") else given
        return found
    if _alone.get():
        return LocalCoordinator()
    own = {*frameworks, frameworks.get("backend")}
    for name in sorted(_ENGINES, key=lambda name: name not in own):
        channel = _channel_of(name)
        if channel is not None:
            return Workers(channel, where=where)
    return LocalCoordinator()


def _channel_of(name: str) -> Channel | None:
    """The channel of an engine's group, if there is one."""
    group_of, channel_of = _ENGINES[name]
    group = group_of()
    if group is None:
        return None
    known = _channels.get(name)
    if known is None or known[0] != group:
        known = _channels[name] = group, channel_of(group)
    return known[1]
