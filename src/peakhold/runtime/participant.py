"""What takes part in a run: the contract between the session and whoever decides, acts or records.

A callback that people see *holds* a participant, and the session asks that one: what a user's
subclass of the callback is called, and what names it takes, is none of the session's business.

At every event of the run the session asks all participants that stand side by side, verb by verb
(`session.py` has the table): `news` and `learn`, `measure`, `decide`, `apply`, `record`. Around
them stand `needs` (before anything has a side effect), `begin` (with how this run starts),
`settle` and `end`. What a participant does not override, it does not do.

Rules of this file:

1. `decide` changes nothing but the participant's own state; `apply` carries one decision out.
   Between the two, other workers' decisions may come in: never act in `decide`.
2. A participant that is copied or pickled leaves its run behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, final

from peakhold._core.decisions import Decision, Missing, SetLearningRate, Stop
from peakhold._core.facts import Fact
from peakhold._core.moments import Answer, Moment
from peakhold._core.observation import Event
from peakhold._core.policy import Policy
from peakhold._core.states import checked, state_from_json, state_to_json
from peakhold.errors import InvalidArgumentError
from peakhold.runtime.listening import LISTENERS, Trace

if TYPE_CHECKING:
    from peakhold.advice import RunSettings
    from peakhold.runtime.run_view import RunView
    from peakhold.runtime.summary import Best, Ending
    from peakhold.snapshots.pool import Held

__all__ = [
    "CONTINUES",
    "FRESH",
    "NOTHING",
    "RESUMED",
    "Deciding",
    "Keeper",
    "Lender",
    "Measured",
    "Needs",
    "Participant",
    "Sparse",
    "Start",
]

S = TypeVar("S")
_GROWING = (list, dict, set)


@final
@dataclass(frozen=True, slots=True)
class Start:
    """How a run starts for one participant."""

    word: str
    """`fresh`: from nothing. `continues`: a later fit of the same object, which begins above epoch
    0. `resumed`: with a state that `load_state_dict` gave it."""

    @property
    def goes_on(self) -> bool:
        """Whether there is something to go on from."""
        return self.word != "fresh"


FRESH, CONTINUES, RESUMED = Start("fresh"), Start("continues"), Start("resumed")


@final
@dataclass(frozen=True, slots=True)
class Needs:
    """What a participant asks of the run before it begins."""

    memory_budget: int | None = None
    """Bytes of host memory that the callbacks of a run may hold together, or None."""
    rates: bool = False
    """Whether moments must say the learning rates."""


@final
@dataclass(frozen=True, slots=True)
class Measured:
    """What a participant adds to a moment."""

    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Goes into `logs`, where all others find it."""
    answers: Mapping[str, Answer] = field(default_factory=dict)
    """What a user's own function said, or what only the device knew; for policies alone."""


NOTHING = Measured()


class _NoRun:
    """In the place of a run, before the first: what the session sets on a participant hides it."""

    def __get__(self, participant: Any, owner: type) -> Any:
        if participant is None:
            return self
        raise RuntimeError(f"{participant.name} takes part in no run yet")


class Participant:
    """Takes part in a run; all verbs, none of which does anything here.

    Attributes:
        name: What people call it: the class of the callback that holds it.
        run: The run it takes part in, as it may be seen; a RuntimeError before the first.
        ranks_epochs: Whether it has something to say about the best epoch of a run.
        adds_to_files: Whether it adds to a file that an earlier run may have begun, and knows what
            it found.
        logs_learning_rate: Whether it logs or sets the learning rate.
        awaits_news: Whether facts may have come in. A participant may say no while it waits for
            none; then `news` is not asked.
        reads_steps: Whether it reads how many steps a moment says, between batches; a participant
            that says no lets the optimizer, which counts them on the device, be.
        measures_last: Whether it looks at what the others have measured, as a user's own function
            of the logs does.
        records_only: Whether it does nothing but write down or tell: of several workers only rank
            0's does, and the others need not have it.
        has_own_files: Whether each of several workers writes files of its own, and so warns of its
            own troubles; else rank 0 says what is to be said.
        needs_finite: Whether what it decides hangs on whether the state is finite, on any worker.
        saves_weights: Whether it writes files of the model, with the statistics of one worker.
        averages_statistics: Whether it wants the mean of all workers' in the model before.
        decides_early: Whether it decides when an epoch begins.
        is_loaded: Whether a state was loaded that counts for the next run.
    """

    name = "a participant"
    kind = "Participant"
    """Its class as people know it: what its state is filed under."""
    ranks_epochs = False
    adds_to_files = False
    logs_learning_rate = False
    awaits_news = True
    reads_steps = True
    measures_last = False
    records_only = False
    has_own_files = False
    needs_finite = False
    saves_weights = False
    averages_statistics = False
    decides_early = False
    sigterm_timeout = 20.0
    """Seconds that `finish_by` may take."""
    run: RunView = cast("RunView", _NoRun())
    is_loaded = False
    is_idle = False
    """Whether rank 0 does, on another worker, what this one would."""

    @property
    def has_run(self) -> bool:
        """Whether it has taken part in a run."""
        return "run" in self.__dict__

    def __getstate__(self) -> dict[str, Any]:
        # What is added to a list of a copy must not be in that of the original.
        return {
            key: one.copy() if type(one) in _GROWING else one
            for key, one in self.__dict__.items()
            if key not in {"run", "is_idle"}
        }

    # Before the first batch

    def attached(self, driver: Any, callback: Any) -> None:
        """A list that drives the callback is known; nothing of the run is."""

    def needs(self, run: RunView) -> Needs:
        """Forget an earlier run; raise what cannot work; say what is needed. Once, on train begin.

        Raises:
            PeakholdError: If training would be wasted.
        """
        return Needs()

    def lift_stop(self) -> bool:
        """Take back a stop of the run that is resumed, if it would not stop it as it is set now."""
        return False

    def buffers_needed(self, run: RunView) -> Mapping[str, int]:
        """How many copies of each part it will hold at a time, the one being taken included.

        Asked once, after everybody's `needs`; what is returned is booked and allocated. It may ask
        `run.pool.affordable(...)` first, and do without.
        """
        return {}

    def advise(self, settings: RunSettings) -> RunSettings:
        """Add what it is set to do to what the advice is made from."""
        return settings

    def begin(self, run: RunView, start: Start) -> None:
        """The first epoch begins (or the end comes without one): how this run starts is known."""

    # At every event

    def passes(self, event: Event, batch: int, logs: dict[str, Any]) -> bool:
        """Whether a batch is nothing to this participant: then there is no moment, and no cost."""
        return False

    def news(self, moment: Moment) -> Iterable[Fact]:
        """Facts that have come in since the moment before; each is told once."""
        return ()

    def learn(self, fact: Fact) -> None:
        """Take in what became of a decision."""

    def measure(self, moment: Moment, logs: dict[str, Any]) -> Measured:
        """Add to the moment, before anybody decides. `logs` also holds what is no number."""
        return NOTHING

    def decide(self, moment: Moment) -> Sequence[Decision]:
        """What this moment asks for."""
        return ()

    def apply(self, decision: Decision, moment: Moment, logs: dict[str, Any]) -> None:
        """Carry out one of its own decisions."""

    def record(self, moment: Moment, logs: dict[str, Any], decided: Sequence[Decision]) -> None:
        """Write the moment down. Of several workers all are asked; look at `run.follows`."""

    # With several workers: rank 0 decides, the others follow

    def shared_state(self) -> Any:
        """What those who follow must know after a decision, as plain JSON; None: nothing."""
        return self.state_dict() or None

    def follow(self, state: Any, moment: Moment, decided: Sequence[Decision]) -> None:
        """Rank 0 has decided: take over its state, instead of `decide`; `apply` comes after it."""
        if state is not None:
            is_loaded = self.is_loaded
            self.load_state_dict(state)
            self.is_loaded = is_loaded

    # The end

    def settle(self) -> None:
        """Wait for what is under way; training has ended."""

    def end(self, ending: Ending) -> None:
        """Everything of this run is on disk: put the rest right."""

    def finish_by(self, deadline: float) -> None:
        """SIGTERM came; on another thread: finish what is under way by a `time.monotonic()`."""

    def summary(self) -> Best | str | None:
        """What it holds for the best, or a sentence why it holds nothing."""

    def looks_at(self, monitor: str) -> bool:
        """Whether it misses a metric that nobody logs."""
        return False

    # State

    def header(self) -> dict[str, Any]:
        """What must be equal for a state to belong to this participant."""
        return {"class": self.kind}

    def place(self) -> str | None:
        """The path it writes to, if its state is filed by that, too."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What it needs to go on after an interruption: plain JSON."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned; it counts for the next run."""

    def check_header(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """The state, if it is one of this participant's.

        Raises:
            InvalidArgumentError: If it is of another class or another monitor.
        """
        header, given = self.header(), cast("Any", state)
        got = {key: given.get(key) for key in header} if isinstance(given, Mapping) else given
        if got != header:
            raise InvalidArgumentError.for_argument(
                "state",
                got,
                f"the state of {header}",
                hint="load a state into a callback of the same class that monitors the same.",
            )
        return state

    def snapshots(self) -> dict[str, Held]:
        """Snapshots in memory without which it could not go on, by name."""
        return {}

    def load_snapshots(self, snapshots: Mapping[str, Held]) -> None:
        """Take such snapshots back, each with a reference; after `load_state_dict`."""


class Deciding(Participant, Generic[S]):
    """A participant whose decisions are a policy's: a configuration, a policy and an `apply`.

    It keeps the policy's state, and knows fresh from continued from resumed. Derive from it,
    give it a policy, and override `apply` for what is not done here: `Stop` and `SetLearningRate`.

    Args:
        policy: The policy; None if `policy` is overridden, as by those whose configuration may
            change in mid-run: the state stays.

    Example:
        >>> from dataclasses import dataclass
        >>> from peakhold._core.moments import Moment, Position
        >>> from peakhold._core.observation import Event
        >>> @dataclass(frozen=True)
        ... class AfterEpochs:
        ...     n: int
        ...     def init(self):
        ...         return 0
        ...     def step(self, done, moment):
        ...         if moment.event is not Event.EPOCH_END:
        ...             return done, ()
        ...         stop = (Stop("enough"),) if done + 1 >= self.n else ()
        ...         return done + 1, stop
        ...     def learn(self, done, fact):
        ...         return done
        ...     def go_on(self, done):
        ...         return done
        >>> participant = Deciding(AfterEpochs(1))
        >>> participant.decide(Moment(Event.EPOCH_END, Position(0)))
        (Stop(reason='enough', bad=False),)
    """

    def __init__(self, policy: Policy[S] | None = None) -> None:
        self._policy = policy
        self.state: S = self.policy.init()
        self._earlier: S | None = None
        self._learned: list[Fact] = []
        self._since: S = self.state
        self.was_set = False
        self.traces: list[Trace] = []
        """Steps since they were told of, if anybody listens."""

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "traces": [], "_learned": []}

    @property
    def policy(self) -> Policy[S]:
        """The policy in force; built anew where the configuration may have changed."""
        if self._policy is None:
            raise NotImplementedError
        return self._policy

    def needs(self, run: RunView) -> Needs:
        """Begin anew, unless a state was loaded; what was before is kept for a fit that goes on."""
        if not self.is_loaded:
            self._earlier, self.state = self.state, self.policy.init()
        return Needs()

    def begin(self, run: RunView, start: Start) -> None:
        """Go on from the fit before, if this one does."""
        earlier, self._earlier = self._earlier, None
        if start is CONTINUES and earlier is not None:
            self.state = self.policy.go_on(earlier)

    def learn(self, fact: Fact) -> None:
        """Tell the policy."""
        self.state = self.policy.learn(self.state, fact)
        self._learned.append(fact)

    def decide(self, moment: Moment) -> Sequence[Decision]:
        """What the policy decides."""
        return self.step(self.view(moment))

    def step(self, moment: Moment) -> tuple[Decision, ...]:
        """Have the policy take a step, and keep a trace of it."""
        policy = self.policy
        self.state, decisions = policy.step(self.state, moment)
        if LISTENERS or self._learned:
            self.trace(policy, moment, decisions)
        else:
            self._since, self.was_set = self.state, False
        return decisions

    def trace(self, policy: Policy[S], moment: Moment, decisions: tuple[Decision, ...]) -> None:
        """A step has been taken: those who replay a run are told from where, and what came of it.

        Args:
            policy: Which took it.
            moment: At which moment, as the policy was shown it.
            decisions: What it decided.
        """
        if LISTENERS:
            facts = tuple(self._learned)
            self.traces.append(Trace(policy, self._since, facts, moment, decisions, self.was_set))
        if self._learned:
            self._learned = []
        self._since, self.was_set = self.state, False

    def view(self, moment: Moment) -> Moment:
        """The moment as this participant's policy sees it, out of what is recorded with it."""
        return moment

    def apply(self, decision: Decision, moment: Moment, logs: dict[str, Any]) -> None:
        """Stop, and set rates."""
        if isinstance(decision, Stop):
            self.run.stop(self.why(decision), bad=decision.bad)
        elif isinstance(decision, SetLearningRate):
            self.run.host.set_learning_rate(decision.name, decision.value)
        elif isinstance(decision, Missing):
            self.miss(decision, logs)

    def shared_state(self) -> Any:
        """The policy's state."""
        return state_to_json(self.state)

    def follow(self, state: Any, moment: Moment, decided: Sequence[Decision]) -> None:
        """Take over the state of rank 0's policy."""
        self.set_state(state_from_json(type(self.policy.init()), state))

    def set_state(self, state: S) -> None:
        """Somebody sets the state from outside: what was decided before does not lead to it."""
        self.state = self._since = state
        self._learned, self.was_set = [], True

    def shown_state(self) -> S:
        """The state as it is, or will be once it is settled; reading it changes nothing."""
        return self.state

    def settle_now(self) -> None:
        """For those who set the state from outside: nothing is left to settle."""

    def why(self, decision: Stop) -> str:
        """The reason that people read."""
        return f"{decision.reason} ({self.name})"

    def miss(self, decision: Missing, logs: Mapping[str, Any]) -> None:
        """A watched metric was not logged."""

    def state_dict(self) -> dict[str, Any]:
        """The policy's state as plain JSON."""
        return {**self.header(), "state": state_to_json(self.state)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; it counts for the next run."""
        self.check_header(state)
        self.set_state(checked(state_from_json(type(self.policy.init()), state["state"])))
        self.is_loaded = True


class Keeper(Participant):
    """What brings an interrupted run back: the session's keeper, one of its participants.

    It takes the interrupted run over before anybody's `needs`, puts it back before anybody sees
    the first epoch begin (or the end, if none is left), and commits what all have decided.

    Attributes:
        initial_epoch: The epoch that this run begins with, as the loop counts.
    """

    initial_epoch = 0

    def share(self, gather: Callable[[Any], list[Any]]) -> None:
        """Learn what of each worker alone must be kept with the run; before a commit.

        Args:
            gather: The values of all workers, by rank, of what each gives (plain JSON); all ask.
        """

    def resume(self, run: RunView) -> None:
        """Take over what an interrupted run left."""

    def welcome(self, run: RunView) -> None:
        """Others have joined the run since `resume`: give them what is theirs."""

    def put_back(self, run: RunView) -> None:
        """Put the interrupted run's state back."""

    def commit(self, moment: Moment, logs: dict[str, Any]) -> None:
        """Make durable what all have just decided."""

    def commit_within(self, moment: Moment) -> None:
        """SIGTERM ends all workers after this batch: begin to back it up, where that was asked for.

        Where this worker is alone, `finish_by` has that done.
        """

    def newest(self) -> str | None:
        """What of this run is on disk, for people; None: nothing that can be told."""
        return None


class Lender(Participant):
    """A participant that puts other weights into the model, and takes them out for a commit."""

    def withdraw(self) -> None:
        """Take them out: what goes on after an interruption goes on from the model's own."""

    def lend_again(self) -> None:
        """Put them in again, if they were taken out."""


class Sparse(Participant):
    """A participant that looks at some batches only, and knows at which.

    It is told of each batch that ends, by its hook or, in the thread that trains, by Keras's list,
    which then need not call the hook; what is due comes to `record`.
    """

    def count(self, batch: int) -> None:
        """A batch of training has ended; to be told twice of one does no harm."""

    def is_due(self) -> bool:
        """Whether it looks at the batch that was counted last."""
        return False
