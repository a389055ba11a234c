"""What all alerts have in common: what they look at, what they tell, and when.

Rules of this file:

1. An alert never changes training: nothing here waits for a network, and what cannot be sent or
   asked is a warning. Only what is wrong before the first batch is an error.
2. The address is a password. It is in one `Secret`, which shows nothing and is not pickled.
3. Conditions are looked at when an epoch's metrics are complete. There is no hook for batches.
4. One worker speaks: the first.
"""

from __future__ import annotations

import time
from collections.abc import Callable as Function
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

from peakhold._core.condition import Condition
from peakhold._core.decisions import Decision, Tell
from peakhold._core.moments import Answer, Moment, rate_key
from peakhold._core.monitor import Watched, closest_name
from peakhold._core.observation import Event
from peakhold._core.policies.alert import AlertPolicy, AlertState, Limit, LimitState
from peakhold.alerts import failure
from peakhold.alerts.message import Standing, compose
from peakhold.alerts.outbox import Outbox
from peakhold.alerts.outcome import Sender
from peakhold.alerts.secret import Secret
from peakhold.errors import (
    AdviceWarning,
    AlertWarning,
    HostError,
    InvalidArgumentError,
    MonitorWarning,
)
from peakhold.host.gradients import GRADIENT_NORM
from peakhold.runtime.participant import Measured, Needs, Start
from peakhold.runtime.run_view import RunView
from peakhold.runtime.summary import why
from peakhold.runtime.watching import Watch, Watching

__all__ = ["AddressKind", "Alerting"]


_LONGEST_REASON = 220
"""Letters of an exception that a message shows."""


@final
@dataclass(frozen=True, slots=True)
class AddressKind:
    """A kind of address that an alert may have: where it comes from, and who sends to it."""

    argument: str
    """Name of the argument that holds the address."""
    variable: str
    """The environment variable that holds it otherwise."""
    sender: Function[[Secret], Sender[str]]
    """Makes the sender; a function of a module, for alerts are pickled."""

    def secret(self, address: Any) -> Secret:
        """The argument, or what the environment says.

        Raises:
            InvalidArgumentError: If it is no text.
        """
        if address is not None and not isinstance(address, (str, Secret)):
            raise InvalidArgumentError.for_argument(
                self.argument, type(address).__name__, "a URL as a string"
            )
        return Secret.from_environment(self.variable) if address is None else Secret(address)

    def sender_for(self, secret: Secret) -> Sender[str]:
        """Who sends to this address.

        Raises:
            InvalidArgumentError: If there is none, or it is no address.
        """
        if not secret:
            raise InvalidArgumentError.for_argument(
                self.argument,
                None,
                f"a URL, here or in the environment variable {self.variable}",
                hint=f"export {self.variable}=https://… before the program starts; "
                "a pickled alert has none either.",
            )
        return self.sender(secret)


class Alerting(Watching[AlertState]):
    """Tells people how a run goes.

    Args:
        name: The class of its callback, for messages.
        address_kind: What kind of address it sends to.
        secret: The address.
        when: A parsed condition with its text, or a function of (epoch, logs), or None.
        condition: The parsed condition, if `when` is text.
        on: What else is told, of `best`, `stop`, `failure` and `resume`.
        monitor: The metric whose value and best are shown.
        mode: `"min"`, `"max"` or `"auto"`.
        run_name: What to call the run, beside its id.
        min_interval_s: Seconds between two messages of one kind.
        tries: How often a message is tried.
        timeout_s: Seconds for one try.
        exit_timeout_s: Seconds that the end of the process waits for messages under way.
    """

    reads_steps = False
    measures_last = True
    records_only = True  # of several workers one tells
    clock = staticmethod(time.monotonic)

    def __init__(
        self,
        name: str,
        address_kind: AddressKind,
        secret: Secret,
        *,
        when: str | Function[[int, Mapping[str, Any]], Any] | None,
        condition: Condition | None,
        on: tuple[str, ...],
        monitor: str,
        mode: str,
        run_name: str | None,
        min_interval_s: float,
        tries: int,
        timeout_s: float,
        exit_timeout_s: float,
    ) -> None:
        self.when, self.condition, self.on = when, condition, on
        self.run_name, self.min_interval_s = run_name, min_interval_s
        self.tries, self.timeout_s, self.exit_timeout_s = tries, timeout_s, exit_timeout_s
        self.called = name
        """What it is called in its run: its answers are filed under that."""
        super().__init__(name, [Watch(name, monitor, mode)])
        self.address_kind, self.secret = address_kind, secret
        self.outbox: Outbox[str] | None = self._new_outbox()
        self.open_run: failure.OpenRun | None = None
        """Notices that the run ended without its last hook."""
        self._limited = LimitState()
        self._logged: set[str] = set()
        self._norm_step: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "outbox": None, "open_run": None}

    def _new_outbox(self) -> Outbox[str]:
        return Outbox(
            self.address_kind.sender_for(self.secret),
            tries=self.tries,
            timeout_s=self.timeout_s,
            exit_timeout_s=self.exit_timeout_s,
        )

    @property
    def where(self) -> str:
        """The address, as far as it may be shown."""
        return self.outbox.sender.where if self.outbox is not None else "nowhere yet"

    # What decides

    @property
    def ranks(self) -> bool:
        """Whether a new best is told: else the direction need not be known."""
        return "best" in self.on

    @property
    def policy(self) -> AlertPolicy:
        """What an epoch is worth telling, as things are set now."""
        return AlertPolicy(
            Watched(self.monitor, self.watches[0].criterion),
            self.condition,
            self._key("when"),
            tells_best=self.ranks,
        )

    def _key(self, answer: str) -> str:
        """What an answer of this participant is called among those of all."""
        return f"{self.called}: {answer}"

    @property
    def _names(self) -> tuple[str, ...]:
        """The metrics in the condition."""
        return () if self.condition is None else self.condition.names

    @property
    def _wants_gradients(self) -> bool:
        return GRADIENT_NORM in {self.monitor, *self._names}

    @property
    def _wants_rates(self) -> bool:
        return any(name.startswith(rate_key("")) for name in self._names)

    # Before the first batch

    def needs(self, run: RunView) -> Needs:
        """Tell of an earlier run that never ended; begin anew; say what looks mistyped.

        Raises:
            InvalidArgumentError: If there is no address, as in an alert that was pickled.
        """
        if self.open_run is not None:
            self.open_run.fail("it had not ended when the next run began")
        super().needs(run)
        self.called = run.name
        self._limited, self._logged = LimitState(), set()
        if self.outbox is None:
            self.secret = self.secret or self.address_kind.secret(None)
            self.outbox = self._new_outbox()
        self._check_names(run)
        self.outbox.attended = run.driven
        if run.driver is not None and "failure" in self.on:
            self.open_run = failure.OpenRun(run.driver, partial(self._fail, run, run.epochs))
        return Needs(rates=self._wants_rates)

    def _check_names(self, run: RunView) -> None:
        host = run.trained
        names = host.metric_names()
        if names is None or run.has_user_callbacks:
            return
        if self._wants_gradients and GRADIENT_NORM not in names and host.gradient_facts() is None:
            try:
                host.check_gradients(self.name, arrays=False)
            except HostError as error:
                self.warn_once(str(error), AdviceWarning)
        known = {*names, *(f"val_{name}" for name in names), "epoch", GRADIENT_NORM}
        known |= set(map(rate_key, host.learning_rates()))
        for name in self._names:
            likely = None if name in known else closest_name(name, known)
            if likely is not None:
                run.suspect(name, likely, [*names, *(f"val_{name}" for name in names)])

    def begin(self, run: RunView, start: Start) -> None:
        """Tell of a run that goes on."""
        super().begin(run, start)
        if (run.start_epoch or 0) > run.first_epoch and "resume" in self.on:
            self._push(f"training goes on from {_place(run.number(run.epoch), run.epochs)}", run)

    # While training goes on

    def measure(self, moment: Moment, logs: dict[str, Any]) -> Measured:
        """What the user's function says of an epoch, and the gradients' largest norm in it."""
        if moment.event is not Event.EPOCH_END:
            return super().measure(moment, logs)
        self.watches[0].resolve(self.name, self.run, None)
        answers: dict[str, Answer] = {}
        norm = self._largest_norm(logs)
        if norm is not None:
            answers[self._key(GRADIENT_NORM)] = norm
            logs = {**logs, GRADIENT_NORM: norm}
        if self.condition is None and callable(self.when):
            answers[self._key("when")] = self._ask(self.when, moment.at.epoch, logs)
        return Measured(answers=answers)

    def _largest_norm(self, logs: Mapping[str, Any]) -> float | None:
        """The epoch's largest norm, if it is asked for; a logged one wins."""
        self._norm_step = None
        if not self._wants_gradients or GRADIENT_NORM in logs:
            return None
        facts = self.run.trained.gradient_facts()
        if facts is None:
            return None
        self._norm_step = facts.largest_step
        return facts.largest

    def _ask(
        self, when: Function[[int, Mapping[str, Any]], Any], epoch: int, logs: Mapping[str, Any]
    ) -> bool | None:
        """The answer of the user's function; None is "not yet"."""
        try:
            return bool(when(epoch, logs))
        except Exception as error:
            if "when" not in self._said:
                self._said.add("when")
                reason = f"{type(error).__name__}: {self.secret.mask(str(error))}"
                number = self.run.number(epoch)
                self.run.warn(
                    f"{self.name}: when(epoch, logs) failed at epoch {number} with {reason}. "
                    "Training goes on; this is said once.",
                    AlertWarning,
                )
            return None

    def decide(self, moment: Moment) -> Sequence[Decision]:
        """What the policy decides, for which the gradients' norm is a metric as any other."""
        return super().decide(self._with_norm(moment))

    def _with_norm(self, moment: Moment) -> Moment:
        norm = moment.answers.get(self._key(GRADIENT_NORM))
        if not isinstance(norm, float):
            return moment
        return replace(moment, metrics={**moment.metrics, GRADIENT_NORM: norm})

    def record(self, moment: Moment, logs: dict[str, Any], decided: Sequence[Decision]) -> None:
        """Tell what was decided, what was held back until now, and how it ended."""
        if moment.event is Event.EPOCH_BEGIN and self._wants_gradients:
            self.run.trained.forget_gradients()
        elif moment.event is Event.EPOCH_END:
            self._record_epoch(self._with_norm(moment), logs, decided)
        elif moment.event is Event.TRAIN_END:
            self._record_end()

    def _record_epoch(
        self, moment: Moment, logs: Mapping[str, Any], decided: Sequence[Decision]
    ) -> None:
        rates = {rate_key(name): rate for name, rate in moment.rates.items()}
        values = {**(rates if self._wants_rates else {}), **moment.metrics}
        self._logged.update(logs, values)
        if self.ranks and self.watches[0].direction is None and self.monitor in values:
            self.warn_once(
                f"{self.name} cannot tell whether larger or smaller values of {self.monitor} are "
                "better and tells of no new best; pass mode='min' or mode='max'.",
                MonitorWarning,
            )
        place = _place(moment.at.number, self.run.epochs)
        for decision in decided:
            if isinstance(decision, Tell):
                text = self._text(f"{place}: {self._news(decision)}", values, self.run)
                self._limited, texts = self._limit.offer(
                    self._limited, decision.kind, text, self.clock()
                )
                self._post(texts, self.run)
        self._limited, texts = self._limit.due(self._limited, self.clock())
        self._post(texts, self.run)
        self._pass_complaint()

    def _news(self, decision: Tell) -> str:
        if decision.kind == "best":
            return f"new best {self.monitor} ({decision.reason})"
        name = getattr(self.when, "__name__", type(self.when).__name__)
        if self.condition is not None or name == "<lambda>":
            return decision.reason
        return f"{name} holds"

    # When it ends

    def _record_end(self) -> None:
        self._warn_of_strange_names()
        self._post_rest(self.run)
        if "stop" in self.on:
            self._push(why(self.run.ending()).rstrip("."), self.run)
        if self.open_run is not None:
            self.open_run.close()
            self.open_run = None

    def _warn_of_strange_names(self) -> None:
        for name in self._names if self.run.n_epochs_done else ():
            if name not in {*self._logged, "epoch"}:
                likely = closest_name(name, self._logged)
                self.warn_once(
                    f"{self.name} looks at {name!r}, which was never logged"
                    + (f"; did you mean {likely!r}?" if likely else "."),
                    MonitorWarning,
                )

    def settle(self) -> None:
        """Training is over: what is not delivered from now on is said on stderr."""
        self._pass_complaint()
        if self.outbox is not None:
            self.outbox.attended = False
            self.outbox.complain()

    def _fail(self, run: RunView, epochs: int | None, reason: str) -> None:
        # In any thread, maybe after the next run began: what it needs of the run it was given.
        self.open_run = None
        if not run.is_prepared:  # what cannot work is an error where training was to begin
            return
        self._post_rest(run)
        # Masked before it is cut: half of a secret is not found any more.
        shown = self.secret.mask(reason)[:_LONGEST_REASON]
        self._push(f"training failed {_where(run, epochs)}: {shown}", run)
        if self.outbox is not None:
            self.outbox.attended = False

    def finish_by(self, deadline: float) -> None:
        """SIGTERM came: nobody else will speak if the process dies of it."""
        if "failure" in self.on:
            self._push(f"SIGTERM came {_where(self.run, self.run.epochs)}", self.run)
            if self.open_run is not None:
                self.open_run.close()
        if self.outbox is not None:
            left_s = max(deadline - time.monotonic(), 0.0)
            self.outbox.flush(min(left_s, self.exit_timeout_s))

    # Messages

    def send(self, text: str) -> None:
        """Send a message of the user's own."""
        self._push(text, self.run)

    @property
    def _limit(self) -> Limit:
        return Limit(self.min_interval_s)

    def _text(self, news: str, values: Mapping[str, float] | None, run: RunView) -> str:
        """The message; `values` are those of the epoch that it is about, if it is about one."""
        state, name = self.state, f"run {run.id}"
        if values is None:
            shown = {self.monitor: state.value}
        else:
            shown = {name: values.get(name) for name in (self.monitor, *self._names)}
        steps = {}
        if values is not None and self._norm_step is not None:
            steps[GRADIENT_NORM] = self._norm_step
        return compose(
            news,
            Standing(
                f"{self.run_name}, {name}" if self.run_name else name,
                {name: value for name, value in shown.items() if value is not None},
                self.monitor,
                state.best,
                None if state.best_epoch is None else run.number(state.best_epoch),
                steps,
            ),
        )

    def _post_rest(self, run: RunView) -> None:
        self._limited, texts = self._limit.rest(self._limited, self.clock())
        self._post(texts, run)

    def _push(self, news: str, run: RunView) -> None:
        self._post([self._text(news, None, run)], run)

    def _post(self, texts: Iterable[str], run: RunView) -> None:
        for text in texts:
            if self.outbox is not None and run.rank == 0:
                self.outbox.push(text)

    def _pass_complaint(self) -> None:
        told = self.outbox.complaint() if self.outbox is not None else None
        if told is not None:
            self.run.warn(f"{self.name}: {told}", AlertWarning)


def _place(number: int, epochs: int | None) -> str:
    return f"epoch {number}" + (f" of {epochs}" if epochs else "")


def _where(run: RunView, epochs: int | None) -> str:
    if run.start_epoch is None:
        return "before its first epoch"
    word = "after" if run.last_epoch == run.epoch else "in"
    return f"{word} {_place(run.number(run.epoch), epochs)}"
