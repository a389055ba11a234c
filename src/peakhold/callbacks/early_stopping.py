"""Stop training when a monitored metric has stopped improving."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from peakhold._core.arguments import check_count, check_number, check_verbose
from peakhold._core.decisions import Decision, Remember, Stop
from peakhold._core.monitor import Relative
from peakhold._core.observation import Observation, is_finite
from peakhold._core.policies.early_stopping import EarlyStoppingPolicy, EarlyStoppingState
from peakhold.advice import Facts, Stopper
from peakhold.callbacks.monitored import Monitored, View, value_text
from peakhold.errors import HostError
from peakhold.host import OPTIMIZER, WEIGHTS, Snapshot
from peakhold.runtime.summary import Best

__all__ = ["EarlyStopping"]


class EarlyStopping(Monitored):
    """Stop training when a monitored metric has stopped improving.

    Best weights, if asked for, are restored however the run ends: patience, the last epoch,
    `stop_training`, Ctrl-C. After an exception inside `fit` no callback is called any more; there
    `restore_best()` still gives them.

    A fit that begins at epoch 0 starts afresh. One that begins later (`initial_epoch > 0`) goes on
    from where this object was: best and counters come back, and the wait that led to a stop has
    been served and begins again.

    Args:
        monitor: Name of the metric. Defaults to `"val_loss"`.
        min_delta: Smallest change that counts, in the metric's unit, or `Relative(0.01)` for one
            percent of the best. Defaults to `0`.
        patience: Checks without improvement to sit out, in epochs. 0 acts like 1, as in Keras.
            Defaults to `0`.
        verbose: 0 is silent, 1 says when it stops and what it restores. Defaults to `0`.
        mode: `"min"`, `"max"`, or `"auto"`: from the metric itself or its name, and an error if
            neither tells. Defaults to `"auto"`.
        baseline: A value that must be beaten within `patience` epochs. Defaults to `None`.
        restore_best_weights: Whether to put the best epoch's weights back at the end of training.
            With `use_ema=True` in a Keras optimizer, the average of that epoch. Defaults to
            `False`.
        start_from_epoch: Epochs (by absolute number, from 0) before this one are no checks.
            Defaults to `0`.
        restore_optimizer: Whether the optimizer goes back to the best epoch together with the
            weights (its slots, its step count and its rate). Defaults to `False`.

    Attributes:
        best: Best value so far, None before the first.
        best_epoch: Index of its epoch, from 0.
        best_weights: Its weights (what `model.get_weights()` gave), None before the first.
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
        monitor: str = "val_loss",
        min_delta: float | Relative = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
        *,
        restore_optimizer: bool = False,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience = check_count(
            "patience", patience, hint="to stop at the first bad epoch, pass patience=1."
        )
        self.verbose = check_verbose(verbose)
        self.baseline = (
            None if baseline is None else check_number("baseline", baseline, infinite=True)
        )
        self.restore_best_weights = bool(restore_best_weights)
        self.start_from_epoch = check_count(
            "start_from_epoch", start_from_epoch, hint="pass the index of an epoch, from 0."
        )
        self.restore_optimizer = restore_optimizer
        self._state = EarlyStoppingState()
        self._snapshot: Snapshot | None = None
        self._history: list[dict[str, Any]] = []
        self._loaded = False
        self._continued: tuple[Any, ...] | None = None

    # Public attributes are views of the state.

    best = View[float | None]("Best value so far.")
    best_epoch = View[int]("Index of the best epoch, from 0.")
    wait = View[int]("Checks without improvement so far.")
    stopped_epoch = View[int]("Index of the epoch that stopped training, from 0; 0 if none did.")

    @property
    def best_weights(self) -> Any:
        """Weights of the best epoch, as `model.get_weights()` gave them."""
        return None if self._snapshot is None else self._snapshot.get(WEIGHTS)

    @best_weights.setter
    def best_weights(self, weights: Any) -> None:
        self._snapshot = None if weights is None else {WEIGHTS: weights}

    # Handlers

    def _reset(self) -> None:
        super()._reset()
        if self._loaded:
            self._loaded = False
            return
        self._continued = (self._state, self._snapshot, self._history)
        self._state = EarlyStoppingState()
        self._snapshot, self._history = None, []

    def _check(self) -> None:
        super()._check()
        if self.restore_best_weights and WEIGHTS not in self.host.parts():
            raise HostError.lacks(
                f"{self._name}(restore_best_weights=True)",
                "a model whose weights can be read and set",
                self.host.describe(),
                hint="pass a model with get_weights/set_weights or state_dict/load_state_dict, or "
                "host=LoopHost(get_state=..., set_state=...).",
            )

    def _epoch_begin(self, epoch: int) -> None:
        if epoch == 0 or self._continued is None:
            self._continued = None
            return
        state, snapshot, history = self._continued
        self._continued = None
        if not self._state.n_checks_done and state.n_checks_done:
            served = {"wait": 0, "stopped": False, "stopped_epoch": 0} if state.stopped else {}
            self._state, self._snapshot, self._history = replace(state, **served), snapshot, history

    def _keep(self, epoch: int, logs: dict[str, Any]) -> None:
        value = self.get_monitor_value(logs)
        if value is None:
            error = self._missed(logs)
            if error is not None:
                raise error
        if value is None or epoch < self.start_from_epoch:
            return
        policy = EarlyStoppingPolicy(self._criterion, self.patience, self.baseline)
        observation, snapshot = Observation(epoch, value), None
        if self.restore_best_weights and policy.is_improvement(self._state, observation):
            snapshot = self.host.snapshot(self._parts())
            # The loss was computed before the last update: only the weights can tell.
            bad = sorted(self.host.nonfinite_in(snapshot))
            if bad:
                observation = Observation(epoch, value, f"weights are not finite ({bad[0]})")
        self._state, decisions = policy.step(self._state, observation)
        for decision in decisions:
            if isinstance(decision, Remember) and snapshot is not None:
                self._snapshot = snapshot
            elif isinstance(decision, Stop):
                self.session.stop(f"{self.monitor}: {decision.reason} (EarlyStopping)")
        self._note(observation, decisions)

    def _parts(self) -> list[str]:
        wanted = {WEIGHTS, "average", *((OPTIMIZER,) if self.restore_optimizer else ())}
        return [part for part in self.host.parts() if part in wanted]

    def get_monitor_value(self, logs: Mapping[str, Any] | None) -> float | None:
        """The monitored value in `logs`, or None if it is not there."""
        return self._value(self.session.last_epoch or 0, logs or {})

    def _missing_message(self, logs: Mapping[str, Any]) -> str:
        return (
            f"Early stopping conditioned on metric `{self.monitor}` which is not available. "
            f"Available metrics are: {','.join(logs)}"
        )

    def _end(self, logs: Any) -> None:
        super()._end(logs)
        if self._state.stopped and self.verbose:
            self.host.say(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.restore_best_weights and self._snapshot is not None:
            if self.verbose:
                self.host.say(
                    "Restoring model weights from the end of the best epoch: "
                    f"{self.best_epoch + 1}."
                )
            self.restore_best()

    def restore_best(self) -> None:
        """Put the best epoch's weights into the model.

        Needed only after an exception inside `fit`; a run that ends has done it.

        Raises:
            HostError: If there are none: `restore_best_weights` was False, or no epoch has ended.
        """
        if self._snapshot is None:
            raise HostError.lacks(
                f"{self._name}.restore_best()",
                "weights of a best epoch",
                self.host.describe(),
                hint="pass restore_best_weights=True and train for at least one epoch.",
            )
        self.host.restore(self._snapshot)

    # Words

    def _note(self, observation: Observation, decisions: tuple[Decision, ...]) -> None:
        self._history.append(
            {
                "epoch": observation.epoch,
                "value": value_text(observation.value),
                "best": self.best,
                "wait": self.wait,
                "decision": ", ".join(d.word for d in decisions),
                "reason": "; ".join(d.reason for d in decisions),
            }
        )

    def explain(self) -> None:
        """Print what was seen and decided at each check of the last run.

        Example:
            >>> stopper = EarlyStopping("loss", patience=1)
            >>> for epoch, loss in enumerate((0.5, 0.6)):
            ...     stopper.on_epoch_end(epoch, {"loss": loss})
            >>> stopper.explain()
            epoch  loss  best  wait  decision     reason
                1   0.5   0.5     0  best so far  first value
                2   0.6   0.5     1  stop         no improvement for 1 check
        """
        titles = ("epoch", self.monitor, "best", "wait", "decision", "reason")
        rows = [titles] + [
            (
                str(row["epoch"] + 1),
                _short(row["value"]),
                _short(row["best"]),
                str(row["wait"]),
                row["decision"],
                row["reason"],
            )
            for row in self._history
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(titles))]
        for row in rows:
            numbers = [cell.rjust(width) for cell, width in zip(row[:4], widths, strict=False)]
            words = [cell.ljust(width) for cell, width in zip(row[4:], widths[4:], strict=True)]
            print("  ".join(numbers + words).rstrip())

    def _tell(self, facts: Facts) -> Facts:
        stopper = Stopper(self.monitor, self.mode, self.patience, self.restore_best_weights)
        return replace(facts, stoppers=(*facts.stoppers, stopper))

    def _summary(self) -> Best | None:
        if self.best is None:
            return None
        if self._snapshot is not None and self.restore_best_weights:
            where = "restored to the model"
        elif self.best_epoch == self.session.last_epoch:
            where = "which the model holds, for it is the last epoch"
        else:
            where = "which the model does not hold: it has the last epoch's weights"
        return Best(self.monitor, self.best, self.best_epoch, where)

    # State

    def state_dict(self) -> dict[str, Any]:
        """Counters and history as plain JSON; best weights are not in it (save them in a file)."""
        return {**self._header(), "state": asdict(self._state), "history": list(self._history)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; counts for the next run, whatever its first epoch.

        Raises:
            InvalidArgumentError: If the state is of another class or another monitor.
        """
        self._check_header(state)
        self._state = EarlyStoppingState(**state["state"])
        self._history = [dict(row) for row in state["history"]]
        self._snapshot, self._loaded = None, True


def _short(value: Any) -> str:
    return f"{value:.6g}" if is_finite(value if isinstance(value, float) else None) else str(value)
