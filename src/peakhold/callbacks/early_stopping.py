"""Stop training when a monitored metric has stopped improving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from peakhold._core.arguments import (
    check_count,
    check_verbose,
)
from peakhold._core.decisions import Decision, Stop
from peakhold._core.monitor import Criterion, Direction, Relative
from peakhold._core.observation import Observation
from peakhold._core.patience import Epochs, Patience, Seconds, Steps, check_patience
from peakhold._core.policies.early_stopping import (
    EarlyStoppingPolicy,
    EarlyStoppingState,
    SeveralPolicy,
)
from peakhold.advice import Facts, Stopper
from peakhold.checkpoint_files.arguments import check_budget
from peakhold.errors import HostError, InvalidArgumentError
from peakhold.host.contract import AVERAGE, OPTIMIZER, WEIGHTS
from peakhold.runtime.monitored import Monitored, OneOfSeveral, View
from peakhold.runtime.several_metrics import one_for_each, row, row_from_json, row_to_json, table
from peakhold.runtime.summary import Best
from peakhold.runtime.training_clock import TrainingClock
from peakhold.snapshots.pool import Held

if TYPE_CHECKING:
    from peakhold.runtime.spilled import Spill, Spilled

__all__ = ["EarlyStopping"]

Checks: TypeAlias = tuple[Observation | None, ...]
"""What each metric said in an epoch."""


class _Unconfirmed(NamedTuple):
    """A step that was taken as if the weights were finite, while another thread looks at them."""

    held: Held
    previous: Held | Spilled | None
    policy: SeveralPolicy
    before: EarlyStoppingState
    checks: Checks
    spent: float


class EarlyStopping(Monitored):
    """Stop training when a monitored metric, or several, have stopped improving.

    Best weights, if asked for, are restored however the run ends: patience, the last epoch,
    `stop_training`, Ctrl-C. After an exception inside `fit` no callback is called any more; there
    `restore_best()` still gives them.

    A fit that begins at epoch 0 starts afresh. One that begins later (`initial_epoch > 0`) goes on
    from where this object was: best and counters come back, and the wait that led to a stop has
    been served and begins again.

    Args:
        monitor: Name of the metric; or a list of names, each with its own best and its own wait.
            The best epoch is then the first one's. Defaults to `"val_loss"`.
        min_delta: Smallest change that counts, in the metric's unit, or `Relative(0.01)` for one
            percent of the best. A list: one for each metric. Defaults to `0`.
        patience: Epochs without improvement to sit out; or `Steps(n)`, or `Seconds(s)` of training.
            0 acts like 1, as in Keras. Defaults to `0`.
        verbose: 0 is silent, 1 says when it stops and what it restores. Defaults to `0`.
        mode: `"min"`, `"max"`, or `"auto"`: from the metric itself or its name, and an error if
            neither tells. A list: one for each metric. Defaults to `"auto"`.
        baseline: A value that must be beaten within `patience`. A list: one for each metric.
            Defaults to `None`.
        restore_best_weights: Whether to put the best epoch's weights back at the end of training.
            With `use_ema=True` in a Keras optimizer, the average of that epoch. Defaults to
            `False`.
        start_from_epoch: Epochs (by absolute number, from 0) before this one are no checks.
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
        best_epoch: Index of its epoch, from 0.
        best_weights: Its weights (as `model.get_weights()` gives them), None before the first.
            The arrays are yours: nothing will write to them again.
        wait: Checks without improvement so far.
        stopped_epoch: Index of the epoch that stopped training, from 0; 0 if none did.

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

    ranks_epochs = True

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
        super().__init__(names[0], modes[0], deltas[0])
        self._several: list[OneOfSeveral] = []
        self.baseline: Any = baselines[0]
        if len(names) > 1:
            self._several = [
                OneOfSeveral(self, *each) for each in zip(names, modes, deltas, strict=True)
            ]
            self._show_several(baselines)
        self.patience: Patience = check_patience(
            "patience", patience, hint="to stop at the first bad epoch, pass patience=1."
        )
        self.verbose = check_verbose(verbose)
        self.restore_best_weights = bool(restore_best_weights)
        self.start_from_epoch = check_count(
            "start_from_epoch", start_from_epoch, hint="pass the index of an epoch, from 0."
        )
        self.restore_optimizer = restore_optimizer
        if require not in ("all", "any"):
            raise InvalidArgumentError.for_argument(
                "require",
                require,
                "'all' or 'any'",
                hint="'all' waits until no metric improves any more, 'any' for the first.",
            )
        self.require = require
        self.memory_budget = check_budget(memory_budget)
        self._clock = TrainingClock()
        self._current = EarlyStoppingState()
        self._best: Held | Spilled | None = None
        self._unconfirmed: _Unconfirmed | None = None
        self._spill: Spill | None = None
        self._history: list[dict[str, Any]] = []
        self._loaded = False
        self._continued: tuple[Any, ...] | None = None

    def _show_several(self, baselines: list[float | None]) -> None:
        # Lists, as they were given; what one metric needs is with each of `_several`.
        self.__dict__.update(
            monitor=[metric.monitor for metric in self._several],
            mode=[metric.mode for metric in self._several],
            min_delta=[metric.min_delta for metric in self._several],
            baseline=baselines,
        )

    @property
    def _metrics(self) -> list[Monitored]:
        return [*self._several] or [self]

    @property
    def monitor_op(self) -> Any:
        """The comparison in use, None before it is known; with several metrics, a list."""
        if self._several:
            return [metric.monitor_op for metric in self._several]
        return super().monitor_op

    # Public attributes are views of the state, which is settled before anybody sees it.

    best = View[float | None]("Best value so far.")
    best_epoch = View[int]("Index of the best epoch, from 0.")
    wait = View[int]("Checks without improvement so far.")
    stopped_epoch = View[int]("Index of the epoch that stopped training, from 0; 0 if none did.")

    @property
    def _state(self) -> EarlyStoppingState:
        self._confirm()
        return self._current

    @_state.setter
    def _state(self, state: EarlyStoppingState) -> None:
        self._confirm()
        self._current = state

    @property
    def best_weights(self) -> Any:
        """Weights of the best epoch, as `model.get_weights()` gives them; the arrays are yours."""
        self._confirm()
        if self._best is None:
            return None
        return self.host.like_live({WEIGHTS: self._best.give_away(WEIGHTS)})[WEIGHTS]

    @best_weights.setter
    def best_weights(self, weights: Any) -> None:
        self._confirm()
        self._replace_best(None if weights is None else Held.of({WEIGHTS: weights}))

    def _replace_best(self, held: Held | Spilled | None) -> None:
        before, self._best = self._best, held
        if before is not None and before is not held:
            before.release()

    # Handlers

    def _reset(self) -> None:
        self._confirm()
        for metric in self._metrics:
            Monitored._reset(metric)
        self._clock = TrainingClock()
        if self._loaded:
            self._loaded = False
            return
        self._continued = (self._current, self._best, self._history)
        self._current = EarlyStoppingState()
        self._best, self._history = None, []

    def _check(self) -> None:
        for metric in self._metrics:
            Monitored._check(metric)
        if self.restore_best_weights and WEIGHTS not in self.host.parts():
            raise HostError.lacks(
                f"{self._name}(restore_best_weights=True)",
                "a model whose weights can be read and set",
                self.host.describe(),
                hint="pass a model with get_weights/set_weights or state_dict/load_state_dict, or "
                "host=LoopHost(get_state=..., set_state=...).",
            )

    def _holds(self) -> Mapping[str, int]:
        self._spill = None
        if not self.restore_best_weights:
            return {}
        pool, earlier = self.session.pool, self._continued[1] if self._continued else self._best
        if isinstance(earlier, Held):
            pool.adopt(earlier)  # the memory of the run before is used again
        parts = self._parts()
        if not pool.affordable(parts, 2):
            self._use_disk()
            return {}
        return dict.fromkeys(parts, 2)

    def _use_disk(self) -> None:
        from peakhold.runtime.spilled import Spill

        self._spill = Spill()
        if not self.session.quiet:
            self.host.say(
                f"{self._name} keeps the best weights on disk, in {self._spill.folder}: two copies "
                f"do not fit into memory_budget={self.session.pool.budget:,}."
            )

    def _test_end(self) -> None:
        for metric in self._metrics:
            Monitored._test_end(metric)

    def _epoch_begin(self, epoch: int) -> None:
        if self.session.start_epoch == epoch:
            self._clock.start(self.session, self.patience)
        if self._continued is None:
            return
        state, held, history = self._continued
        self._continued = None
        if epoch > 0 and not self._current.n_checks_done and state.n_checks_done:
            self._current = state.served() if state.stopped else state
            self._history = history
            self._replace_best(held)
        elif held is not None:
            held.release()

    def _keep(self, epoch: int, logs: dict[str, Any]) -> None:
        self._confirm()
        checks = self._look(epoch, logs)
        spent = self._clock.lap(self.session, self.patience, self._name)
        if epoch < self.start_from_epoch:
            return
        policy = self._policy(checks)
        if all(check is None for check in checks):
            self._current = policy.pass_by(self._several_states(policy), spent)
            return
        before = self._several_states(policy)
        improves = self.restore_best_weights and policy.is_improvement(before, checks)
        if not improves:
            self._carry_out(*policy.step(before, checks, spent), checks)
        elif self._on_disk():
            self._keep_on_disk(policy, before, checks, spent)
        else:
            self._keep_in_memory(policy, before, checks, spent)

    def _several_states(self, policy: SeveralPolicy) -> EarlyStoppingState:
        """The state with a place for each metric; somebody may have set it anew."""
        state = self._current
        if len(state.others) != len(policy.policies) - 1:
            state = replace(state, others=policy.init().others)
        return state

    def _look(self, epoch: int, logs: dict[str, Any]) -> Checks:
        """The checks of this epoch; raises for a metric that should be there."""
        if not self._several:
            values = [self.get_monitor_value(logs)]
        else:
            values = [metric._value(epoch, logs) for metric in self._several]
        for metric, value in zip(self._metrics, values, strict=True):
            error = metric._missed(logs) if value is None else None
            if error is not None:
                raise error
        return tuple(None if value is None else Observation(epoch, value) for value in values)

    def _policy(self, checks: Checks) -> SeveralPolicy:
        baselines = self.baseline if self._several else [self.baseline]
        policies = tuple(
            EarlyStoppingPolicy(
                # Without a check nothing is compared, and the direction may not be known yet.
                Criterion(Direction.MIN) if check is None else metric._criterion,
                self.patience,
                baseline,
            )
            for metric, check, baseline in zip(self._metrics, checks, baselines, strict=True)
        )
        names = tuple(metric.monitor for metric in self._several)
        return SeveralPolicy(policies, names, self.require)

    def _carry_out(
        self, state: EarlyStoppingState, decisions: tuple[Decision, ...], checks: Checks
    ) -> None:
        self._current = state
        for decision in decisions:
            if isinstance(decision, Stop):
                of = "" if self._several else f"{self.monitor}: "
                self.session.stop(f"{of}{decision.reason} (EarlyStopping)")
        self._note(checks, decisions)

    # Keeping the best. The loss was computed before the last update: only the weights can tell
    # whether this epoch may be the best, and looking at them takes as long as copying them.

    def _on_disk(self) -> bool:
        if self._spill is None and self.session.pool.is_over_budget():  # built only now
            self._use_disk()
        return self._spill is not None

    def _keep_in_memory(
        self, policy: SeveralPolicy, before: EarlyStoppingState, checks: Checks, spent: float
    ) -> None:
        held = self.session.pool.take(self._parts())
        held.start_check()
        good = policy.step(before, checks, spent)
        worse = policy.step(before, _spoiled(checks, "weights"), spent)
        if any(isinstance(decision, Stop) for decision in (*good[1], *worse[1])):
            # Whether this very epoch ends training hangs on it: wait.
            bad = sorted(held.nonfinite())
            if bad:
                held.release()
                checks = _spoiled(checks, bad[0])
            else:
                self._replace_best(held)
            self._carry_out(*policy.step(before, checks, spent), checks)
            return
        self._unconfirmed = _Unconfirmed(held, self._best, policy, before, checks, spent)
        self._best = held
        self._carry_out(*good, checks)

    def _confirm(self) -> None:
        """Settle a step that was taken before its weights were known to be finite."""
        step, self._unconfirmed = self._unconfirmed, None
        if step is None:
            return
        bad = sorted(step.held.nonfinite())
        if not bad:
            if step.previous is not None:
                step.previous.release()
            return
        self._best = step.previous
        step.held.release()
        checks = _spoiled(step.checks, bad[0])
        self._history.pop()
        self._current, decisions = step.policy.step(step.before, checks, step.spent)
        self._note(checks, decisions)

    def _keep_on_disk(
        self, policy: SeveralPolicy, before: EarlyStoppingState, checks: Checks, spent: float
    ) -> None:
        live = self.host.live(self._parts())
        bad = sorted(self.host.nonfinite_in(live))
        if bad:
            checks = _spoiled(checks, bad[0])
        elif self._spill is not None:
            self._replace_best(self._spill.save(live))
        self._carry_out(*policy.step(before, checks, spent), checks)

    def _parts(self) -> list[str]:
        wanted = {WEIGHTS, AVERAGE, *((OPTIMIZER,) if self.restore_optimizer else ())}
        return [part for part in self.host.parts() if part in wanted]

    def get_monitor_value(self, logs: Mapping[str, Any] | None) -> float | None:
        """The monitored value in `logs`, or None if it is not there; the first of several."""
        return self._metrics[0]._value(self.session.last_epoch or 0, logs or {})

    def _missing_words(self, monitor: str, logs: Mapping[str, Any]) -> str:
        return (
            f"Early stopping conditioned on metric `{monitor}` which is not available. "
            f"Available metrics are: {','.join(logs)}"
        )

    def _end(self, logs: Any) -> None:
        self._confirm()
        for metric in self._metrics:
            Monitored._end(metric, logs)
        if self._continued is not None and self._continued[1] is not None:  # no epoch has begun
            self._continued[1].release()
            self._continued = None
        if self._current.stopped and self.verbose:
            self.host.say(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.restore_best_weights and self._best is not None:
            if self.verbose:
                self.host.say(
                    "Restoring model weights from the end of the best epoch: "
                    f"{self.best_epoch + 1}."
                )
            self.session.pool.trim()  # JAX keeps the old weights until the new ones are there
            self.restore_best()

    def restore_best(self) -> None:
        """Put the best epoch's weights into the model.

        Needed only after an exception inside `fit`; a run that ends has done it.

        Raises:
            HostError: If there are none: `restore_best_weights` was False, or no epoch has ended.
        """
        self._confirm()
        if self._best is None:
            raise HostError.lacks(
                f"{self._name}.restore_best()",
                "weights of a best epoch",
                self.host.describe(),
                hint="pass restore_best_weights=True and train for at least one epoch.",
            )
        self._best.restore(self.host)

    # Words

    def _note(self, checks: Checks, decisions: tuple[Decision, ...]) -> None:
        self._history.append(row(checks, self._current, decisions))

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
        self._confirm()
        names = [metric.monitor for metric in self._metrics]
        print(*table(self._history, names), sep="\n")

    def _tell(self, facts: Facts) -> Facts:
        alone = not self._several or self.require == "any"
        stoppers = [
            Stopper(
                metric.monitor,
                metric.mode,
                self.patience,
                self.restore_best_weights,
                self.start_from_epoch,
                alone,
            )
            for metric in self._metrics
        ]
        return replace(facts, stoppers=(*facts.stoppers, *stoppers))

    def _summary(self) -> Best | None:
        if self.best is None:
            return None
        if self._best is not None and self.restore_best_weights:
            where = "restored to the model"
        elif self.best_epoch == self.session.last_epoch:
            where = "which the model holds, for it is the last epoch"
        else:
            where = "which the model does not hold: it has the last epoch's weights"
        return Best(self._metrics[0].monitor, self.best, self.best_epoch, where)

    # State

    def _held(self) -> dict[str, Any]:
        self._confirm()
        return {} if self._best is None or not self.restore_best_weights else {"best": self._best}

    def _load_held(self, held: Mapping[str, Held]) -> None:
        if "best" in held:
            self._replace_best(held["best"])

    def __getstate__(self) -> dict[str, Any]:
        self._confirm()
        return {**super().__getstate__(), "_spill": None}

    def state_dict(self) -> dict[str, Any]:
        """Counters and history as plain JSON; best weights are not in it (save them in a file)."""
        state, history = self._state.to_json(), [row_to_json(row) for row in self._history]
        return {**self._header(), "state": state, "history": history}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; counts for the next run, whatever its first epoch.

        Raises:
            InvalidArgumentError: If the state is of another class or another monitor.
        """
        self._check_header(state)
        self._state = EarlyStoppingState.from_json(state["state"])
        self._history = [row_from_json(row) for row in state["history"]]
        self._replace_best(None)
        self._loaded = True


def _spoiled(checks: Checks, name: str) -> Checks:
    """The same checks of an epoch whose weights are not finite."""
    defect = f"weights are not finite ({name})"
    return tuple(None if check is None else replace(check, defect=defect) for check in checks)
