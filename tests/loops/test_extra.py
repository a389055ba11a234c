"""What a backup holds besides model and optimizer, and what is said where it does not."""

import warnings

import numpy as np
import pytest
import torch

import peakhold
from peakhold.errors import BackupMismatchError, InvalidArgumentError, SaveWarning


class Counter:
    """Something with a state that is not PyTorch's."""

    def __init__(self):
        self.n, self.seen = 0, [np.zeros(2, np.float32)]

    def state_dict(self):
        return {"n": self.n, "seen": self.seen}

    def load_state_dict(self, state):
        self.n, self.seen = state["n"], state["seen"]


class Run:
    """A loop of PyTorch with an `extra` of its own; `given` makes it of the loop's objects."""

    def __init__(self, folder, given=None, *, with_optimizer=True, units=2, save_freq="epoch"):
        torch.manual_seed(0)
        self.model = torch.nn.Linear(3, units)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2, 0.5)
        self.counter = Counter()
        self.scores = {"m": 0.0}
        self.given = {} if given is None else given(self)
        self.backup = peakhold.BackupAndRestore(folder, save_freq=save_freq)
        self.list = peakhold.CallbackList(
            self.backup,
            self.model,
            optimizer=self.optimizer if with_optimizer else None,
            extra=self.given,
            verbose=0,
        )

    def all_of_them(self):
        return {
            "scheduler": self.scheduler,
            "counter": self.counter,
            "scores": (lambda: dict(self.scores), self.scores.update),
        }

    def train(self, epochs, crash_in=None):
        self.list.on_train_begin()
        for epoch in range(self.list.initial_epoch, epochs):
            self.list.on_epoch_begin(epoch)
            if epoch == crash_in:
                raise ZeroDivisionError
            self.optimizer.zero_grad()
            self.model(torch.ones(4, 3)).square().mean().backward()
            self.optimizer.step()
            self.scheduler.step()
            self.counter.n += 1
            self.counter.seen[0] += 1.5
            self.scores["m"] += 0.25
            self.list.on_epoch_end(epoch, {"loss": 1.0})
        self.list.on_train_end()
        return self

    def state(self):
        tensors = [*self.model.state_dict().values(), *self.optimizer.state.values()]
        return (
            [repr(one) for one in tensors],
            self.scheduler.state_dict(),
            (self.counter.n, [one.tolist() for one in self.counter.seen]),
            self.scores,
        )


def crashed(run, crash_in=3):
    with pytest.raises(ZeroDivisionError):
        run.train(6, crash_in)
    return run


def test_whatever_has_a_state_comes_back(tmp_path):
    whole = Run(tmp_path / "a", Run.all_of_them).train(6)
    crashed(Run(tmp_path / "b", Run.all_of_them))
    with warnings.catch_warnings():
        warnings.simplefilter("error", SaveWarning)
        resumed = Run(tmp_path / "b", Run.all_of_them).train(6)

    assert resumed.state() == whole.state()
    assert type(resumed.counter.seen[0]) is np.ndarray
    assert resumed.counter.seen[0].dtype == np.float32


def test_it_is_copied_as_it_was_and_trained_on_with(tmp_path):
    """The backup's own thread writes while the loop changes the very arrays."""
    run = crashed(Run(tmp_path, Run.all_of_them))
    run.counter.seen[0] += 100
    again = Run(tmp_path, Run.all_of_them)
    again.list.on_train_begin()

    assert again.counter.seen[0].tolist() == [4.5, 4.5]


def test_a_backup_within_an_epoch_holds_it_too(tmp_path):
    run = Run(tmp_path, lambda r: {"counter": r.counter}, save_freq=2)
    run.list.on_train_begin()
    run.list.on_epoch_begin(0)
    for batch in range(3):
        run.counter.n += 1
        run.list.on_train_batch_end(batch, {"loss": 1.0})
    again = Run(tmp_path, lambda r: {"counter": r.counter}, save_freq=2)
    again.list.on_train_begin()

    assert again.counter.n == 2


def test_the_best_weights_are_restored_without_it():
    run_counter = Counter()
    model = torch.nn.Linear(1, 1)
    stopping = peakhold.EarlyStopping("loss", patience=1, restore_best_weights=True)
    callbacks = peakhold.CallbackList(
        stopping, model, extra={"counter": run_counter}, epochs=3, verbose=0
    )
    callbacks.on_train_begin()
    for epoch in range(3):
        callbacks.on_epoch_begin(epoch)
        with torch.no_grad():
            model.weight.fill_(epoch)
        run_counter.n += 1
        callbacks.on_epoch_end(epoch, {"loss": float(epoch)})
    callbacks.on_train_end()

    assert model.weight.item() == 0.0
    assert run_counter.n == 3


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"lr": 0.1}, r"extra\['lr'\]='float'"),
        ({"pair": (dict, 3)}, r"extra\['pair'\]='tuple'"),
        ({"half": type("Half", (), {"state_dict": dict})()}, r"extra\['half'\]='Half'"),
        ([Counter()], r"extra=\["),
        ({3: Counter()}, "extra=3"),
        ({"": Counter()}, "extra=''"),
    ],
)
def test_what_has_no_state_is_refused_at_once(extra, named):
    with pytest.raises(InvalidArgumentError, match=named) as caught:
        peakhold.CallbackList([], extra=extra)

    assert "expected" in str(caught.value)


def test_what_cannot_be_saved_is_refused_before_the_first_batch(tmp_path):
    with pytest.raises(InvalidArgumentError, match="object"):
        Run(tmp_path, lambda r: {"odd": (object, print)}).list.on_train_begin()


# On a resume


def test_a_new_one_goes_on_as_it_is_and_that_is_said(tmp_path):
    crashed(Run(tmp_path, lambda r: {"scheduler": r.scheduler}))
    again = Run(tmp_path, lambda r: {"scheduler": r.scheduler, "counter": r.counter})
    with pytest.warns(SaveWarning, match="holds no state of extra 'counter'"):
        again.list.on_train_begin()

    assert (again.scheduler.last_epoch, again.counter.n) == (3, 0)


def test_one_that_is_gone_is_said(tmp_path):
    crashed(Run(tmp_path, Run.all_of_them))
    again = Run(tmp_path, lambda r: {"scheduler": r.scheduler})
    with pytest.warns(SaveWarning, match="takes the state of extra 'counter', extra 'scores'"):
        again.list.on_train_begin()

    assert again.scheduler.last_epoch == 3


def test_one_that_was_renamed_is_an_error(tmp_path):
    crashed(Run(tmp_path, lambda r: {"scheduler": r.scheduler}))
    again = Run(tmp_path, lambda r: {"sched": r.scheduler})
    with pytest.raises(BackupMismatchError, match="extra 'scheduler' in the backup, extra 'sched'"):
        again.list.on_train_begin()


def test_one_of_another_shape_is_an_error(tmp_path):
    def average(run):
        return {"ema": torch.optim.swa_utils.AveragedModel(run.model)}

    crashed(Run(tmp_path, average))
    again = Run(tmp_path, lambda r: {"ema": torch.nn.ModuleDict({"module": torch.nn.Linear(5, 2)})})
    with pytest.raises(BackupMismatchError, match=r"extra 'ema': module.weight: \(2, 3\) in the"):
        again.list.on_train_begin()


def test_one_that_cannot_load_its_state_is_an_error_that_names_it(tmp_path):
    class Strict(Counter):
        def load_state_dict(self, state):
            raise KeyError("version")

    crashed(Run(tmp_path, lambda r: {"counter": r.counter}))
    with pytest.raises(
        BackupMismatchError, match="extra 'counter' cannot take its state"
    ) as caught:
        Run(tmp_path, lambda r: {"counter": Strict()}).list.on_train_begin()

    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("first", [True, False])
def test_an_optimizer_that_comes_or_goes_is_said(tmp_path, first):
    crashed(Run(tmp_path, lambda r: {"opt": r.optimizer}, with_optimizer=first))
    words = "takes the state of the optimizer" if first else "holds no state of the optimizer"
    with pytest.warns(SaveWarning, match=words):
        Run(
            tmp_path, lambda r: {"opt": r.optimizer}, with_optimizer=not first
        ).list.on_train_begin()


# What a loop evidently has


def said_by(begin):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        begin()
    return [str(w.message) for w in caught if "does not hold" in str(w.message)]


def loop_that_has(folder, *, backup=True, **passed):
    net = torch.nn.Linear(2, 1)
    opt = torch.optim.Adam(net.parameters())
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 10)
    scaler = torch.amp.GradScaler("cpu")
    average = torch.optim.swa_utils.AveragedModel(net)
    other = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.1)
    of_other = torch.optim.lr_scheduler.StepLR(other, 3)
    off = torch.amp.GradScaler("cpu", enabled=False)
    things = {"opt": opt, "sched": sched, "scaler": scaler, "average": average}
    callbacks = peakhold.CallbackList(
        peakhold.BackupAndRestore(folder) if backup else [],
        net,
        verbose=0,
        **{
            key: things[one] if isinstance(one, str) else {name: things[name] for name in one}
            for key, one in passed.items()
        },
    )
    callbacks.on_train_begin()
    return other, of_other, off


def test_what_the_loop_has_and_no_backup_holds_is_said_once_with_what_to_pass(tmp_path):
    (said,) = said_by(lambda: loop_that_has(tmp_path))

    assert said == (
        "BackupAndRestore: the backup does not hold opt (Adam) and sched (CosineAnnealingLR) and "
        "scaler (GradScaler) and average (AveragedModel), which this loop has; a run that is "
        "resumed begins anew there. Hint: pass optimizer=opt, "
        'extra={"sched": sched, "scaler": scaler, "average": average}'
    )


def test_what_is_passed_is_not_said(tmp_path):
    said = said_by(lambda: loop_that_has(tmp_path, optimizer="opt", extra=["sched", "average"]))
    assert len(said) == 1 and "does not hold scaler (GradScaler), which" in said[0]
    everything = {"optimizer": "opt", "extra": ["sched", "scaler", "average"]}
    assert said_by(lambda: loop_that_has(tmp_path / "b", **everything)) == []
    assert said_by(lambda: loop_that_has(tmp_path, backup=False)) == []


def test_what_is_passed_as_functions_is_not_said(tmp_path):
    net = torch.nn.Linear(2, 1)
    opt = torch.optim.Adam(net.parameters())
    sched = torch.optim.lr_scheduler.StepLR(opt, 10)
    functions = {
        "bound": (sched.state_dict, sched.load_state_dict),
        "closed over": (lambda: sched.state_dict(), lambda state: sched.load_state_dict(state)),
    }
    for name, pair in functions.items():
        callbacks = peakhold.CallbackList(
            peakhold.BackupAndRestore(tmp_path / name),
            net, optimizer=opt, extra={"s": pair}, verbose=0,
        )  # fmt: skip
        assert said_by(callbacks.on_train_begin) == []


class Trainer:
    def __init__(self, folder):
        self.net = torch.nn.Linear(2, 1)
        self.opt = torch.optim.Adam(self.net.parameters())
        self.folder = folder

    def train(self):
        callbacks = peakhold.CallbackList(
            peakhold.BackupAndRestore(self.folder), self.net, verbose=0
        )
        callbacks.on_train_begin()


def test_a_trainer_s_own_attributes_are_in_its_hands(tmp_path):
    said = said_by(Trainer(tmp_path).train)

    assert len(said) == 1
    assert "self.opt (Adam)" in said[0] and "pass optimizer=self.opt" in said[0]


# Words that are not ours


@pytest.mark.parametrize("library", ["peakhold", "peakhold.keras"])
class TestParams:
    @pytest.fixture(autouse=True)
    def _list(self, library):
        self.lib = pytest.importorskip(library)

    @pytest.mark.parametrize(
        ("slip", "meant"),
        [
            ("optimiser", "optimizer"), ("modle", "model"), ("extras", "extra"), ("epoch", "epochs"),
            ("hosts", "host"), ("first_epochs", "first_epoch"), ("verbos", "verbose"),
        ],
    )  # fmt: skip
    def test_a_slip_is_an_error(self, slip, meant):
        with pytest.raises(
            InvalidArgumentError, match=f"got {slip}=3.\nHint: did you mean {meant}"
        ):
            self.lib.CallbackList([], **{slip: 3})

    def test_what_has_a_state_belongs_elsewhere(self):
        net = torch.nn.Linear(1, 1)
        opt = torch.optim.SGD(net.parameters(), lr=0.1)
        sched = torch.optim.lr_scheduler.StepLR(opt, 3)
        for name, value, hint in [
            ("opt", opt, r"did you mean optimizer=opt\?"),
            ("scheduler", sched, r'pass extra=\{"scheduler": scheduler\}'),
            ("net", net, r"did you mean model=net, or extra="),
        ]:
            with pytest.raises(InvalidArgumentError, match=hint):
                self.lib.CallbackList([], **{name: value})

    def test_all_others_are_params(self):
        seen = {}

        class Looks(self.lib.Callback):
            def on_train_begin(self, logs=None):
                seen.update(self.params)

        given = {
            "epochs": 3, "steps": 4, "verbose": 0, "batch_size": 32, "samples": 96, "size": 1,
            "metrics": ["loss"], "do_validation": True, "mode": "min", "seed": 7, "name": "run",
        }  # fmt: skip
        self.lib.CallbackList([Looks()], **given).on_train_begin()

        assert seen == given
