"""Saves that a user's own code carries out: subclasses of `ModelCheckpoint` with Keras's hooks.

Rules of this file:

1. Where a subclass overrides one of them, a save that is due is handed over: its `_save_model` is
   called, in the thread that trains, whether the state turns out to be worth a file or not.
2. What asks for a save, `super()._save_model(...)` or a call of the user's own, is a moment of its
   own: the policy decides in it, and the user's answers are recorded with it.
3. Such a save is written while training waits: the file is there when the call returns.
4. A question (`_should_save_model`, `_get_file_path`) changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, final

from peakhold._core.decisions import Decision, Save, Skip
from peakhold._core.moments import Answer, Moment
from peakhold._core.observation import is_finite
from peakhold._core.policies.checkpoint import ASKED, WORTH_IT, CheckpointPolicy, CheckpointState
from peakhold.errors import HostError, InvalidArgumentError
from peakhold.runtime.watching import OWN_OP, Watching

__all__ = ["Destination", "HandingOver"]

FILE_PATH: Final = "_get_file_path"
_SETS_OP: Final = frozenset({"_set_monitor_op"})
"""Who sets the comparison is asked for no file."""


@final
@dataclass(frozen=True, slots=True)
class Destination:
    """Where a user's code has a save written."""

    path: str | None
    """None: where the template says."""
    batch: int | None
    """Index of the batch, as it was given."""


@final
@dataclass(slots=True)
class _Asking:
    """One call of `_save_model`, as far as it has got."""

    moment: Moment
    answers: dict[str, Answer] = field(default_factory=lambda: {ASKED: True})
    by_rule: bool | None = None
    """What `_should_save_model` of ours has said, if it was asked."""

    def as_moment(self) -> Moment:
        return replace(self.moment, answers=dict(self.answers))


class HandingOver(Watching[CheckpointState]):
    """What is asked of a subclass of `ModelCheckpoint`, and what it may ask."""

    reads_steps = False
    save_best_only = False
    _asking: _Asking | None = None

    @property
    def hands_over(self) -> bool:
        """Whether a user's own code carries out what is due, or says whether it is."""
        return bool(self._asks) and self._asks != _SETS_OP

    @property
    def why_handed_over(self) -> str:
        """In words."""
        names = sorted(self._asks - {OWN_OP})
        return f"its class overrides {', '.join(names)}" if names else "monitor_op is yours"

    @property
    def policy(self) -> CheckpointPolicy:
        """With the settings as they are now."""
        raise NotImplementedError

    def path_of(
        self, number: int, batch: int | None, logs: Mapping[str, Any], moment: Moment
    ) -> tuple[str, list[str]]:
        """The path by the template, and the places in it that nothing fills."""
        raise NotImplementedError

    def catch_up(self, moment: Moment) -> None:
        """Before a save outside of an event: what was passed over, taken over or heard of."""
        raise NotImplementedError

    def carry_out(
        self,
        decisions: Sequence[Decision],
        moment: Moment,
        logs: dict[str, Any],
        place: Destination,
    ) -> None:
        """Write at once what was decided, or say why not."""
        raise NotImplementedError

    # What the user's code may call

    def hand_over(self, moment: Moment, batch: int | None, logs: dict[str, Any]) -> None:
        """A save is due: call `_save_model`, the user's or, where that is not overridden, ours."""
        self.run.callback._save_model(epoch=moment.at.epoch, batch=batch, logs=logs)

    def save_for(self, epoch: int, batch: int | None, logs: Mapping[str, Any] | None) -> None:
        """Save, if the state is worth a file; when this returns, the file is there.

        Raises:
            HostError: If no run has begun.
        """
        asking = self._begin(epoch, batch, logs, "_save_model")
        given = dict(logs or {})
        self.catch_up(asking.moment)
        callback, path = self.run.callback, None
        before, self._asking = self._asking, asking
        try:
            if FILE_PATH in self._asks:
                path = self._checked(callback._get_file_path(epoch, batch, given))
                asking.answers[FILE_PATH] = path
            worth = True
            if "_should_save_model" in self._asks:
                shown = path or self._filled(epoch, batch, given, asking)
                worth = bool(callback._should_save_model(epoch, batch, given, shown))
                if worth is not asking.by_rule:
                    asking.answers[WORTH_IT] = worth
            if worth:
                self._compare(asking)
        finally:
            self._asking = before
        moment = asking.as_moment()
        self.carry_out(self.step(moment), moment, given, Destination(path, batch))

    def is_worth_it(self, epoch: int, batch: int | None, logs: Mapping[str, Any] | None) -> bool:
        """Whether the state would be saved, by the rules; nothing is changed or said."""
        asking = self._asking or self._begin(epoch, batch, logs, "_should_save_model")
        self._compare(asking)
        _, decisions = self.policy.step(self.state, asking.as_moment())
        asking.by_rule = any(isinstance(one, Save) and one.retry is None for one in decisions)
        return asking.by_rule

    def file_path(self, epoch: int, batch: int | None, logs: Mapping[str, Any] | None) -> str:
        """The path by the template."""
        asking = self._asking or self._begin(epoch, batch, logs, FILE_PATH)
        return self._filled(epoch, batch, logs or {}, asking)

    def was_told(self, moment: Moment, decision: Decision) -> bool:
        """Whether a user's code has said that nothing is to be saved."""
        return isinstance(decision, Skip) and moment.answers.get(WORTH_IT) is False

    def _filled(
        self, epoch: int, batch: int | None, logs: Mapping[str, Any], asking: _Asking
    ) -> str:
        return self.path_of(self.run.number(epoch), batch, logs, asking.moment)[0]

    # What it is asked

    def _begin(
        self, epoch: int, batch: int | None, logs: Mapping[str, Any] | None, name: str
    ) -> _Asking:
        if not self.has_run:
            raise HostError.lacks(
                f"{self.name}.{name}()",
                "a run that has begun",
                None,
                hint="call it while training runs, from a callback's hook.",
            )
        moment = self.run.moment(dict(logs or {}))
        at = moment.at._replace(epoch=int(epoch), batch=batch)
        asking = _Asking(replace(moment, at=at))
        if self.ranks:
            self.set_op()
            self.look(self.watches[0], asking.moment, logs or {})
        return asking

    def _compare(self, asking: _Asking) -> None:
        """Ask a user's `_is_improvement` once, of what is finite."""
        watched = self.policy.watched
        if not self.compares or not self.save_best_only or watched is None:
            return
        value = watched.value(asking.moment)
        if value is None or watched.improves_answer in asking.answers:
            return
        if watched.criterion is not None and not is_finite(value):
            return
        to_beat = self.policy.to_beat(self.state)
        asking.answers[watched.improves_answer] = self.is_improvement(0, value, to_beat)

    def _checked(self, path: Any) -> str:
        suffix = self.suffix
        expected = f"a path that ends in {suffix}, as filepath does"
        hint = f"{self.name}._get_file_path is to return the path of the file, as a string."
        if not isinstance(path, (str, os.PathLike)):
            raise InvalidArgumentError.for_argument(FILE_PATH, path, expected, hint=hint)
        found = os.fspath(path)
        if not isinstance(found, str) or not found.endswith(suffix):
            raise InvalidArgumentError.for_argument(FILE_PATH, found, expected, hint=hint)
        return found

    @property
    def suffix(self) -> str:
        """The suffix that names the format."""
        raise NotImplementedError
