"""Stop training when a monitored metric has stopped improving."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, final

from peakhold._core.arguments import check_count, check_verbose
from peakhold._core.decisions import Decision, Missing, Remember, Restore, Stop
from peakhold._core.facts import Committed, Fact, NotFinite
from peakhold._core.moments import Answer, Moment
from peakhold._core.monitor import Relative, Watched
from peakhold._core.observation import Event, is_finite
from peakhold._core.patience import Epochs, Seconds, Steps, check_patience
from peakhold._core.policies.early_stopping import EarlyStoppingPolicy, EarlyStoppingState
from peakhold._core.policy import Speculation, speculate
from peakhold.advice import RunSettings, Stopper
from peakhold.checkpoint_files.arguments import check_budget
from peakhold.errors import HostError, InvalidArgumentError, MonitorWarning
from peakhold.host.contract import AVERAGE, OPTIMIZER, WEIGHTS, Host
from peakhold.runtime.callback import asked, host_of
from peakhold.runtime.comparing import Comparing
from peakhold.runtime.participant import CONTINUES, Needs, Start
from peakhold.runtime.participating import Setting, View
from peakhold.runtime.run_view import RunView
from peakhold.runtime.several_metrics import one_for_each, row, row_from_json, row_to_json, table
from peakhold.runtime.summary import Best
from peakhold.runtime.watching import READ, Waiting, Watch
from peakhold.snapshots.pool import Held

if TYPE_CHECKING:
    from peakhold.runtime.spilled import Spill, Spilled

__all__ = ["EarlyStopping"]


class EarlyStopping(Comparing):
    """Stop training when a monitored metric, or several, have stopped improving.

    Best weights, if asked for, are restored however the run ends: patience, the last epoch,
    `stop_training`, Ctrl-C. After an exception inside `fit` no callback is called any more; there
    `restore_best()` still gives them.

    A fit that begins at epoch 0 starts afresh. One that begins later (`initial_epoch > 0`) goes on
    from where this object was: best and counters come back. If it had stopped that run, it waits
    for `patience` epochs again before it stops this one.

    Args:
        monitor: Name of the metric; or a list of names, each with its own best and its own wait.
            The best epoch is then the first one's. Defaults to `"val_loss"`.
        min_delta: Smallest change that counts, in the metric's unit, or `Relative(0.01)` for one
            percent of the best. A list: one for each metric. Defaults to `0`.
        patience: Epochs without improvement to wait for; or `Steps(n)`, or `Seconds(s)` of
            training. 0 acts like 1, and 2.5 like 3, as in Keras; `math.inf` never stops. Defaults
            to `0`.
        verbose: 0 is silent, 1 says when it stops and what it restores; None is 0, `"auto"` is 1.
            Defaults to `0`.
        mode: `"min"`, `"max"`, or `"auto"`: from the metric itself or its name, and an error if
            neither tells. A list: one for each metric. Defaults to `"auto"`.
        baseline: A value that must be beaten within `patience`. A list: one for each metric.
            Defaults to `None`.
        restore_best_weights: Whether to put the best epoch's weights back at the end of training.
            With `use_ema=True` in a Keras optimizer, the average of that epoch. Defaults to
            `False`.
        start_from_epoch: Epochs (by absolute number, from 0, or as the loop counts) before this
            one are no checks.
            Defaults to `0`.
        restore_optimizer: Whether the optimizer goes back to the best epoch together with the
            weights (its slots, its step count and its rate). Defaults to `False`.
        require: Of several metrics, whether `"all"` must have stopped improving at the same time,
            or `"any"` is enough. Defaults to `"all"`.
        memory_budget: Bytes of host memory that the callbacks of a run may hold together. Two
            copies are needed, the best and a candidate; if they do not fit, the best is kept on
            disk, in the folder for temporary files, and that is said. Defaults to `None`: no limit.

    Attributes:
        best: Best value so far, None before the first; with several metrics, the first one's.
        best_epoch: Its epoch, from 0, or as the loop counts.
        best_weights: Its weights (as `model.get_weights()` gives them), None before the first.
            The arrays are yours: nothing will write to them again.
        wait: Checks without improvement so far.
        stopped_epoch: The epoch that stopped training, as `best_epoch` counts; 0 if none did.

    Raises:
        InvalidArgumentError: For `patience=-1`, a NaN `min_delta`, a monitor that is no string, ….

    Example:
        >>> stopper = EarlyStopping("loss", patience=2)
        >>> for epoch, loss in enumerate((0.5, 0.4, 0.4, 0.41)):
        ...     stopper.on_epoch_end(epoch, {"loss": loss})
        >>> stopper.stopped_epoch, stopper.best_epoch
        (3, 1)

    Source:
        `keras.callbacks.EarlyStopping` of Keras 3.15; see "Differences from Keras" in the docs.
    """

    def __init__(
        self,
        monitor: str | Sequence[str] = "val_loss",
        min_delta: float | Relative | Sequence[float | Relative] = 0,
        patience: int | Epochs | Steps | Seconds = 0,
        verbose: int = 0,
        mode: str | Sequence[str] = "auto",
        baseline: float | Sequence[float | None] | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
        *,
        restore_optimizer: bool = False,
        require: Literal["all", "any"] = "all",
        memory_budget: int | None = None,
    ) -> None:
        names, modes, deltas, baselines = one_for_each(monitor, mode, min_delta, baseline)
        name = type(self).__name__
        watches = [Watch(name, *each) for each in zip(names, modes, deltas, strict=True)]
        stopping = _Stopping(name, watches, baselines)
        stopping.patience = check_patience(
            "patience", patience, hint="to stop at the first bad epoch, pass patience=1."
        )
        stopping.verbose = check_verbose(verbose)
        stopping.restore_best_weights = bool(restore_best_weights)
        stopping.start_from_epoch = check_count(
            "start_from_epoch", start_from_epoch, hint="pass the index of an epoch, from 0."
        )
        stopping.restore_optimizer = restore_optimizer
        if require not in ("all", "any"):
            raise InvalidArgumentError.for_argument(
                "require",
                require,
                "'all' or 'any'",
                hint="'all' waits until no metric improves any more, 'any' for the first.",
            )
        stopping.require = require
        stopping.memory_budget = check_budget(memory_budget)
        super().__init__(stopping)

    monitor = Setting[Any]("Name of the metric; a list of several.")
    mode = Setting[Any]("`min`, `max` or `auto`; a list for several metrics.")
    _peakhold_asks = (READ, *Comparing._peakhold_asks)
    min_delta = Setting[Any]("Smallest change that counts; a list for several metrics.")
    baseline = Setting[Any]("A value that must be beaten within `patience`, or None.")
    patience = Setting[Any]("Epochs, steps or seconds without improvement to wait for.")
    verbose = Setting[int]("0 is silent, 1 says when it stops and what it restores.")
    restore_best_weights = Setting[bool]("Whether the best epoch's weights are put back.")
    start_from_epoch = Setting[int]("Epochs before this one are no checks.")
    restore_optimizer = Setting[bool]("Whether the optimizer goes back, too.")
    require = Setting[Any]("Whether `all` metrics must have stopped improving, or `any`.")
    memory_budget = Setting[Any]("Bytes that the callbacks of a run may hold together.")

    # Views of the state: reading waits for what is not known yet, and settles nothing.

    best = View[float | None]("Best value so far.")
    best_epoch = View[int]("The best epoch, from 0, or as the loop counts.")
    wait = View[int]("Checks without improvement so far.")
    stopped_epoch = View[int](
        "The epoch that stopped training, as `best_epoch` counts; 0 if none did."
    )

    @property
    def _peakhold_stopping(self) -> _Stopping:
        participant: Any = self._peakhold_link.participant
        return participant  # type: ignore[no-any-return]

    @property
    def best_weights(self) -> Any:
        """Weights of the best epoch, as `model.get_weights()` gives them; the arrays are yours."""
        best = self._peakhold_stopping.shown_best()
        if best is None:
            return None
        return host_of(self).like_live({WEIGHTS: best.give_away(WEIGHTS)})[WEIGHTS]

    @best_weights.setter
    def best_weights(self, weights: Any) -> None:
        self._peakhold_stopping.settle_now()
        self._peakhold_stopping.replace_best(
            None if weights is None else Held.of({WEIGHTS: weights})
        )

    @asked
    def get_monitor_value(self, logs: Mapping[str, Any] | None) -> float | None:
        """The monitored value in `logs`, or None if it is not there; the first of several."""
        return self._peakhold_stopping.value_in(logs or {})

    def restore_best(self) -> None:
        """Put the best epoch's weights into the model.

        Needed only after an exception inside `fit`; a run that ends has done it.

        Raises:
            HostError: If there are none: `restore_best_weights` was False, or no epoch has ended.
        """
        self._peakhold_stopping.settle_now()
        self._peakhold_stopping.restore_best(host_of(self))

    def explain(self) -> None:
        """Print what was seen and decided at each check of the last run.

        Example:
            >>> stopper = EarlyStopping("loss", patience=1)
            >>> for epoch, loss in enumerate((0.5, 0.6)):
            ...     stopper.on_epoch_end(epoch, {"loss": loss})
            >>> stopper.explain()
            epoch  loss  best  wait  decision     reason
                1   0.5   0.5     0  best so far  first value
                2   0.6   0.5     1  stop         no improvement for 1 epoch
        """
        stopping = self._peakhold_stopping
        names = [watch.monitor for watch in stopping.watches]
        first = stopping.run.first_epoch if stopping.has_run else 0
        print(*table(stopping.shown_history(), names, first), sep="\n")


class _Unsettled(NamedTuple):
    """A step that was taken as if the weights were finite, while another thread looks at them."""

    held: Held
    previous: Held | Spilled | None
    before: EarlyStoppingState
    moment: Moment
    ticket: int


class _Settled(NamedTuple):
    """What a step comes to, once it is known."""

    state: EarlyStoppingState
    best: Held | Spilled | None
    history: list[_HistoryRow]


class _Check(NamedTuple):
    """A check as it was made; a row of `explain()` is made of it when somebody looks."""

    epoch: int
    values: Sequence[float | None]
    state: EarlyStoppingState
    decisions: Sequence[Decision]

    def as_row(self) -> dict[str, Any]:
        """As it is shown and kept; that a metric is missing is no decision of a check."""
        checked = [decision for decision in self.decisions if not isinstance(decision, Missing)]
        return row(self.epoch, self.values, self.state, checked)


_HistoryRow: TypeAlias = _Check | dict[str, Any]
"""A check of this process, or what another one has kept of it."""


@final
class _Stopping(Waiting[EarlyStoppingState]):
    """Asks the policy, and keeps the best epoch's weights.

    The loss was computed before the last update: only the weights can tell whether an epoch may be
    the best, and looking at them takes as long as copying them. So the step is taken as if they
    were finite, and settled at the next moment (`_core/policy.py: speculate`).
    """

    ranks_epochs = True
    verbose = 0
    restore_best_weights = False
    start_from_epoch = 0
    restore_optimizer = False
    require: Literal["all", "any"] = "all"
    memory_budget: int | None = None
    awaits_news = False

    def __init__(
        self, name: str, watches: Sequence[Watch], baselines: Sequence[float | None]
    ) -> None:
        self.baselines = list(baselines)
        self._best: Held | Spilled | None = None
        self._candidate: Held | Spilled | None = None
        self._unsettled: _Unsettled | None = None
        self._settings: list[Any] = []
        """What the policy at hand was made of."""
        self._made: EarlyStoppingPolicy | None = None
        self._spill: Spill | None = None
        self._history: list[_HistoryRow] = []
        self._earlier_run: tuple[Held | Spilled | None, list[_HistoryRow]] | None = None
        super().__init__(name, watches)

    def __getstate__(self) -> dict[str, Any]:
        self.settle_now()
        return {**super().__getstate__(), "_spill": None, "_candidate": None}

    # The configuration

    @property
    def policy(self) -> EarlyStoppingPolicy:
        """With the settings as they are now; made anew when one of them is another."""
        settings: list[Any] = [self._patience, self.require, self.start_from_epoch, self._asks]
        settings += self.baselines
        for watch in self.watches:
            settings += (watch.monitor, watch.direction, watch.min_delta)
        made = self._made
        if made is None or settings != self._settings:
            derived = READ in self._asks
            watched = tuple(
                Watched(watch.monitor, watch.criterion, baseline, derived=derived and not i)
                for i, (watch, baseline) in enumerate(
                    zip(self.watches, self.baselines, strict=True)
                )
            )
            made = EarlyStoppingPolicy(watched, self.patience, self.require, self.start_from_epoch)
            self._settings, self._made = settings, made
        return made

    @property
    def _is_single(self) -> bool:
        return len(self.watches) == 1

    @property
    def baseline(self) -> Any:
        """The value to beat; a list for several metrics."""
        return self.baselines[0] if self._is_single else self.baselines

    @baseline.setter
    def baseline(self, value: Any) -> None:
        self.baselines = [value] if self._is_single else list(value)

    # With several workers

    @property
    def needs_finite(self) -> bool:  # type: ignore[override]
        """Weights that are kept must be finite on all workers."""
        return self.restore_best_weights

    def follow(self, state: Any, moment: Moment, decided: Sequence[Decision]) -> None:
        """Rank 0 has decided; each worker keeps the best weights that it has itself."""
        self.set_state(EarlyStoppingState.from_json(state))
        if self.restore_best_weights and any(isinstance(one, Remember) for one in decided):
            self._keep(moment)
        if moment.event is Event.EPOCH_END:
            self._note(self._history, moment, self.state, decided)

    def _keep(self, moment: Moment) -> Moment:
        """Copy the weights, which all workers have found to be finite."""
        if self._on_disk():
            return self._saved_to_disk(moment)
        self._candidate = self._taken()
        return self._saved_to_disk(moment) if self._candidate is None else moment

    def _taken(self) -> Held | None:
        """A copy of the weights; None if there is no memory for one: disk has the best from now."""
        try:
            return self.run.pool.take(self._parts(self.run.host))
        except MemoryError:
            self._use_disk(self.run, "there is no memory for a copy")
            return None

    # Before training

    def needs(self, run: RunView) -> Needs:
        """Begin anew; what was before is kept for a fit that goes on."""
        self.settle_now()
        if not self.is_loaded:
            self._earlier_run = (self._best, self._history)
            self._best, self._history = None, []
        super().needs(run)
        if self.restore_best_weights and WEIGHTS not in run.host.parts():
            raise HostError.lacks(
                f"{self.name}(restore_best_weights=True)",
                "a model whose weights can be read and set",
                run.host.describe(),
                hint="pass a model with get_weights/set_weights or state_dict/load_state_dict, or "
                "host=LoopHost(get_state=..., set_state=...).",
            )
        return Needs(memory_budget=self.memory_budget)

    def buffers_needed(self, run: RunView) -> Mapping[str, int]:
        """Two copies, the best and a candidate; none if they do not fit."""
        self._spill = None
        if not self.restore_best_weights:
            return {}
        earlier = self._earlier_run[0] if self._earlier_run else self._best
        if isinstance(earlier, Held):
            run.pool.adopt(earlier)  # the memory of the run before is used again
        parts = self._parts(run.host)
        run.pool.look_for_exempt()
        if not run.pool.affordable(parts, 2):
            self._use_disk(run, _over_budget(run))
            return {}
        return dict.fromkeys(parts, 2)

    def _use_disk(self, run: RunView, why: str) -> None:
        from peakhold.runtime.spilled import Spill

        self._spill = Spill.fitting(run.host, self._parts(run.host))
        run.notice(f"{self.name} keeps the best weights on disk, in {self._spill.folder}: {why}.")

    def advise(self, settings: RunSettings) -> RunSettings:
        """Its patience and what it restores."""
        alone = self._is_single or self.require == "any"
        stoppers = [
            Stopper(
                READ if READ in self._asks else watch.monitor,  # of that, no name tells anything
                watch.mode,
                self.patience,
                self.restore_best_weights,
                self.start_from_epoch,
                alone,
            )
            for watch in self.watches
        ]
        return replace(settings, stoppers=(*settings.stoppers, *stoppers))

    def lift_stop(self) -> bool:
        """Go on, if the wait that ended training is not over by the patience as it is now."""
        state = self.shown_state()
        if not state.stopped or self.policy.is_over(state):
            return False
        self.settle_now()
        self.set_state(replace(self.state, stopped=False, stopped_epoch=0))
        return True

    def begin(self, run: RunView, start: Start) -> None:
        """Go on from the fit before, if this one does and that one had a check."""
        (best, history), self._earlier_run = self._earlier_run or (None, []), None
        earlier = self._earlier
        if start is CONTINUES and earlier is not None and earlier.n_checks_done:
            super().begin(run, start)
            self._history = history
            self.replace_best(best)
            return
        self._earlier = None
        if best is not None:
            best.release()

    # At each moment

    def news(self, moment: Moment) -> Iterable[Fact]:
        """Whether the weights of the last improvement were finite; waits for the look."""
        step = self._unsettled
        if step is None or moment.event not in {Event.EPOCH_END, Event.TRAIN_END}:
            return ()
        bad = sorted(step.held.nonfinite())
        return (NotFinite(step.ticket, _defect(bad[0])) if bad else Committed(step.ticket),)

    def learn(self, fact: Fact) -> None:
        """Settle the step that was taken on trust."""
        step = self._unsettled
        if step is None or fact.ticket != step.ticket:
            return
        settled = self._settled()
        self.state, self._best, self._history = settled
        self._unsettled, self.awaits_news = None, False
        self._learned.append(fact)
        if isinstance(fact, NotFinite):
            step.held.release()
        elif step.previous is not None:
            step.previous.release()

    def _comparisons(self, moment: Moment) -> Mapping[str, Answer]:
        """Each metric's, as Keras compares: with the best, and what is better with the baseline."""
        policy, answers = self.policy, dict[str, Answer]()
        if not policy.may_check(moment):
            return {}
        states = policy.each(self.state)
        for at, (watched, state) in enumerate(zip(policy.watched, states, strict=True)):
            value = watched.value(moment)
            if value is None or (watched.criterion is not None and not is_finite(value)):
                continue
            better = self.is_improvement(at, value, state.best)
            answers[watched.improves_answer] = better
            if better and watched.baseline is not None:
                answers[watched.baseline_answer] = self.is_improvement(at, value, watched.baseline)
        return answers

    def value_in(self, logs: Mapping[str, Any]) -> float | None:
        """The first metric's value in logs."""
        moment, monitor = self.run.moment(logs), self.watches[0].monitor
        if READ in self._asks and logs.get(monitor) is None:  # else the policy says it
            self.warn_once(self.missing_words(monitor, logs), MonitorWarning)
        return self.look(self.watches[0], moment, logs)

    def decide(self, moment: Moment) -> Sequence[Decision]:
        """What the policy decides; where it hangs on the weights, they are looked at first."""
        if self._asks:
            moment = self.view(moment)
        if moment.event is Event.TRAIN_END:
            decisions = super().decide(moment)
            restores = self.restore_best_weights and self._best is not None
            return (*decisions, Restore("the best epoch")) if restores else decisions
        before, policy = self.state, self.policy
        if self.restore_best_weights:
            trial = speculate(policy, before, moment, _defect("weights"))
            shown = moment if trial.bad is None else self._looked_at(trial, moment)
            step = trial.good if shown is moment else policy.step(before, shown)
            moment = shown
        else:
            step = policy.step(before, moment)
        self.state, decisions = step
        self.trace(policy, moment, decisions)
        if moment.event is Event.EPOCH_END:
            self._note(self._history, moment, self.state, decisions)
        return decisions

    def _looked_at(self, trial: Speculation[EarlyStoppingState], moment: Moment) -> Moment:
        """Copy the weights, which seem to be the best; the moment, with what is wrong with them."""
        if self.run.n_workers > 1:
            return self._keep(moment)
        if self._on_disk():
            return self._saved_to_disk(moment)
        return self._copied(moment, self.state, must_wait=trial.must_wait)

    def _copied(self, moment: Moment, before: EarlyStoppingState, *, must_wait: bool) -> Moment:
        """Copy the weights and have them looked at; the moment, as far as it is known by then."""
        held = self._taken()
        if held is None:
            return self._saved_to_disk(moment)
        held.start_check()
        if must_wait:  # whether this very epoch ends training hangs on it
            bad = sorted(held.nonfinite())
            if bad:
                held.release()
                return replace(moment, defect=_defect(bad[0]))
        else:
            ticket = before.n_checks_done + 1
            self._unsettled = _Unsettled(held, self._best, before, moment, ticket)
            self.awaits_news = True
        self._candidate = held
        return moment

    def _saved_to_disk(self, moment: Moment) -> Moment:
        live = self.run.host.borrow(self._parts(self.run.host))
        bad = sorted(self.run.pool.nonfinite_in(live))
        if bad:
            return replace(moment, defect=_defect(bad[0]))
        if self._spill is not None:
            self._candidate = self._spill.save(live)
        return moment

    def _on_disk(self) -> bool:
        if self._spill is None and self.run.pool.is_over_budget():  # built only now
            self._use_disk(self.run, _over_budget(self.run))
        return self._spill is not None

    def _parts(self, host: Host) -> list[str]:
        wanted = {WEIGHTS, AVERAGE, *((OPTIMIZER,) if self.restore_optimizer else ())}
        return [part for part in host.parts() if part in wanted]

    def apply(self, decision: Decision, moment: Moment, logs: dict[str, Any]) -> None:
        """Keep the best, restore it, stop."""
        super().apply(decision, moment, logs)
        if isinstance(decision, Remember):
            candidate, self._candidate = self._candidate, None
            if candidate is None:
                return
            if self._unsettled is None:
                self.replace_best(candidate)
            else:
                self._best = candidate  # the one before is kept until it is known
        elif isinstance(decision, Restore):
            self._say_stopped()
            if self.verbose:
                self.run.say(
                    "Restoring model weights from the end of the best epoch: "
                    f"{self.run.number(self.state.best_epoch)}."
                )
            self.run.pool.trim()  # JAX keeps the old weights until the new ones are there
            self.restore_best(self.run.host)
        elif isinstance(decision, Missing) and moment.event is Event.TRAIN_END:
            self.forget_said()

    def why(self, decision: Stop) -> str:
        """The reason that people read."""
        of = f"{self.watches[0].monitor}: " if self._is_single else ""
        return f"{of}{decision.reason} (EarlyStopping)"

    def record(self, moment: Moment, logs: dict[str, Any], decided: Sequence[Decision]) -> None:
        """At the end, say that it stopped, if nothing was restored."""
        if moment.event is Event.TRAIN_END and not any(isinstance(d, Restore) for d in decided):
            self._say_stopped()

    def _say_stopped(self) -> None:
        if self.state.stopped and self.verbose:
            self.run.say(f"Epoch {self.run.number(self.state.stopped_epoch)}: early stopping")

    def missing_words(self, monitor: str, logs: Mapping[str, Any]) -> str:
        """Keras's words."""
        return (
            f"Early stopping conditioned on metric `{monitor}` which is not available. "
            f"Available metrics are: {','.join(logs)}"
        )

    # The best

    def replace_best(self, held: Held | Spilled | None) -> None:
        """Hold another snapshot."""
        before, self._best = self._best, held
        if before is not None and before is not held:
            before.release()

    def restore_best(self, host: Host) -> None:
        """Put the best epoch's weights into the model.

        Raises:
            HostError: If there are none.
        """
        if self._best is None:
            raise HostError.lacks(
                f"{self.name}.restore_best()",
                "weights of a best epoch",
                host.describe(),
                hint="pass restore_best_weights=True and train for at least one epoch.",
            )
        self._best.restore(host)

    # What is settled, or will be

    def _settled(self) -> _Settled:
        """What the last step comes to; waits for the look, and changes nothing."""
        step = self._unsettled
        if step is None:
            return _Settled(self.state, self._best, self._history)
        bad = sorted(step.held.nonfinite())
        if not bad:
            return _Settled(self.state, self._best, self._history)
        moment = replace(step.moment, defect=_defect(bad[0]))
        state, decisions = self.policy.step(step.before, moment)
        history = self._history[:-1]
        self._note(history, moment, state, decisions)
        return _Settled(state, step.previous, history)

    def settle_now(self) -> None:
        """For those who change the state from outside."""
        if self._unsettled is not None:
            bad = sorted(self._unsettled.held.nonfinite())
            ticket = self._unsettled.ticket
            self.learn(NotFinite(ticket, _defect(bad[0])) if bad else Committed(ticket))

    def shown_state(self) -> EarlyStoppingState:
        """The state as it is, or will be when the last step is settled."""
        return self._settled().state

    def shown_best(self) -> Held | Spilled | None:
        """The best snapshot as it is, or will be."""
        return self._settled().best

    def shown_history(self) -> list[dict[str, Any]]:
        """What was decided at each check, as it is or will be."""
        return [one if isinstance(one, dict) else one.as_row() for one in self._settled().history]

    # Words

    def _note(
        self,
        history: list[_HistoryRow],
        moment: Moment,
        state: EarlyStoppingState,
        decisions: Sequence[Decision],
    ) -> None:
        """Note a check, if there was one: what is said of a metric that is missing is none."""
        for decision in decisions:
            if type(decision) is not Missing:
                values: list[float | None] = []
                for watch in self.watches:
                    values += (moment.metrics.get(watch.monitor),)
                history.append(_Check(moment.at.epoch, values, state, decisions))
                return

    def summary(self) -> Best | str:
        """The best epoch, and where its weights are; or that there is none."""
        state = self.shown_state()
        if state.best is None:
            return f"no epoch could be ranked by {self.watches[0].monitor}"
        if self._best is not None and self.restore_best_weights:
            where = "restored to the model"
        elif state.best_epoch == self.run.last_epoch:
            where = "which the model holds"
        else:
            where = "which the model does not hold (it has the last epoch's weights)"
        return Best(self.watches[0].monitor, state.best, state.best_epoch, where)

    # State

    def header(self) -> dict[str, Any]:
        """States belong to those who watch the same."""
        return {**super().header(), "monitor": self.monitor}

    def snapshots(self) -> dict[str, Held]:
        """The best weights."""
        best: Any = self.shown_best()
        return {} if best is None or not self.restore_best_weights else {"best": best}

    def load_snapshots(self, snapshots: Mapping[str, Held]) -> None:
        """Take the best weights back."""
        if "best" in snapshots:
            self.replace_best(snapshots["best"])

    def state_dict(self) -> dict[str, Any]:
        """Counters and history as plain JSON; best weights are not in it (save them in a file)."""
        settled = self._settled()
        history = [row_to_json(each) for each in self.shown_history()]
        return {**self.header(), "state": settled.state.to_json(), "history": history}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; it counts for the next run, whatever its first epoch."""
        self.settle_now()
        super().load_state_dict(state)
        self._history = [row_from_json(each) for each in state["history"]]
        self.replace_best(None)


def _over_budget(run: RunView) -> str:
    return f"two copies do not fit into memory_budget={run.pool.budget:,}"


def _defect(name: str) -> str:
    return f"weights are not finite ({name})"
