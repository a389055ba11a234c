"""Gradients in loops by hand: PyTorch's optimizers are looked into, others tell."""

import gc
import math

import numpy as np
import pytest
import torch

import peakhold
from event_reader import array, opened, series, tags
from fake_slack import FakeSlack
from peakhold.errors import AdviceWarning, HostError, NonFiniteGradientError
from peakhold.host.finding import host_for
from peakhold.host.loop import LoopHost
from peakhold.host.step_hooks import step_hook

N_BATCHES, BAD = 6, 3


class Loop:
    """A loop of a user's: two weights, a known slope for each target, a rate of 0."""

    def __init__(self, make=torch.optim.SGD, *, scaler=None, clears_late=False, **arguments):
        self.model = torch.nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.model.weight.fill_(1.0)
        self.optimizer = make(self.model.parameters(), lr=0.0, **arguments)
        self.scaler, self.clears_late = scaler, clears_late
        self.batches = []

    def slope(self, target):
        """The square's, or the root's at its infinite point."""
        error = self.model(torch.ones(4, 2)) - (2.0 if target is None else target)
        return error.abs().sqrt().mean() if target is None else error.square().mean()

    def run(self, callbacks, targets, epochs=1, **params):
        run = peakhold.CallbackList(
            callbacks, self.model, optimizer=self.optimizer, epochs=epochs, verbose=0, **params
        )
        run.on_train_begin()
        for epoch in range(epochs):
            run.on_epoch_begin(epoch)
            for batch, target in enumerate(targets):
                self.step(target)
                self.batches.append((epoch, batch))
                run.on_train_batch_end(batch, {"loss": 0.5})
                if run.stop_training:
                    break
            run.on_epoch_end(epoch, {"loss": 0.5})
            if run.stop_training:
                break
        run.on_train_end()

    def step(self, target):
        if not self.clears_late:
            self.optimizer.zero_grad()
        loss = self.slope(target)
        if self.scaler is None:
            loss.backward()
            self.optimizer.step()
        else:
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.clears_late:
            self.optimizer.zero_grad()


def targets(*, bad=None):
    found = [1.0] * N_BATCHES
    found[1] = -1.0
    if bad is not None:
        found[bad] = None
    return found


def test_the_guard_stops_at_the_batch_whose_gradient_explodes(capsys):
    loop, guard = Loop(), peakhold.TerminateOnNaN()
    loop.run([guard], targets(bad=BAD), epochs=2)

    assert loop.batches[-1] == (0, BAD)
    assert guard.session.stop_reasons == [
        f"the gradient of step {BAD + 1} is not finite at batch {BAD} (TerminateOnNaN)"
    ]


def test_it_can_be_an_error():
    with pytest.raises(
        NonFiniteGradientError, match=f"at batch {BAD}, step {BAD + 1} of"
    ) as caught:
        Loop().run([peakhold.TerminateOnNaN(raise_error=True)], targets(bad=BAD))

    assert caught.value.step == BAD + 1


def test_a_later_loop_is_not_stopped_by_an_earlier_explosion():
    loop, guard = Loop(), peakhold.TerminateOnNaN()
    loop.run([guard], targets(bad=BAD))
    with torch.no_grad():
        loop.model.weight.fill_(1.0)
    loop.run([guard], targets(), epochs=2)

    assert not guard.session.stop_reasons and loop.batches[-1] == (1, N_BATCHES - 1)


def test_without_batch_hooks_an_alert_still_knows_the_step():
    """There is no hook for batches: the optimizer was looked into all the same."""
    loop = Loop()
    with FakeSlack() as slack:
        alert = peakhold.SlackAlert(slack.url, when="gradient_norm > 5 and epoch > 1")
        loop.run([alert], targets(), epochs=2)
        assert alert.flush(60)

    (text,) = slack.taken
    assert text.endswith(f"gradient_norm 8.48528 at step {N_BATCHES + 2}")


def test_norms_and_histograms_are_drawn(tmp_path):
    loop = Loop()
    board = peakhold.TensorBoard(tmp_path, histogram_freq=1, update_freq=1, write_gradients=True)
    loop.run([board], targets(), epochs=2)
    train = opened(tmp_path / "train")
    small, large = 2 * math.sqrt(2), 6 * math.sqrt(2)

    assert [value for _, value in series(train, "batch_gradient_norm")] == [
        pytest.approx(large if batch == 1 else small)
        for _ in range(2)
        for batch in range(N_BATCHES)
    ]
    assert series(train, "epoch_gradient_norm") == [(i, pytest.approx(large)) for i in (0, 1)]
    assert array(train.Tensors("weight/gradient")[0])[-1].tolist() == [2.0, 2.0, 2.0]


def test_a_loop_that_clears_gradients_is_told_why_there_are_no_histograms(tmp_path):
    loop = Loop(clears_late=True)
    board = peakhold.TensorBoard(tmp_path, histogram_freq=1, write_gradients=True)
    with pytest.warns(AdviceWarning, match="zero_grad") as told:
        loop.run([board], targets(), epochs=2)

    assert len([one for one in told if "zero_grad" in str(one.message)]) == 1
    assert len(series(opened(tmp_path / "train"), "epoch_gradient_norm")) == 2


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_scaler_that_passes_over_an_overflow_is_no_explosion(fused):
    """A fused optimizer is called with scaled gradients, also with those that overflowed."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    loop = Loop(torch.optim.Adam, scaler=scaler, fused=fused)
    guard, board = peakhold.TerminateOnNaN(), Looks()
    loop.run([guard, board], targets(bad=BAD))

    assert loop.batches[-1] == (0, N_BATCHES - 1) and not guard.session.stop_reasons
    assert board.facts.finite
    assert board.facts.largest == pytest.approx(6 * math.sqrt(2))
    assert board.facts.norm == pytest.approx(2 * math.sqrt(2))


class Looks(peakhold.Callback):
    """A user's callback that asks the host."""

    def on_epoch_end(self, epoch, logs=None):
        self.facts = self.host.gradient_facts()
        self.gradients = dict(self.host.gradients())


def test_sparse_gradients_and_parameters_without_one_have_a_norm():
    model = torch.nn.ModuleList([torch.nn.Embedding(9, 2, sparse=True), torch.nn.Linear(2, 1)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    host = LoopHost(model, optimizer=optimizer)
    host.forget_gradients()
    model[0](torch.tensor([1, 1, 3])).sum().backward()
    optimizer.step()

    assert host.gradient_facts().norm == pytest.approx(math.sqrt(2 * 2**2 + 2 * 1**2))


def test_half_precision_does_not_overflow_in_its_norm():
    parameter = torch.nn.Parameter(torch.ones(4, dtype=torch.float16))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    host = host_for(None, optimizer)
    host.forget_gradients()
    parameter.grad = torch.full((4,), 60000.0, dtype=torch.float16)
    optimizer.step()

    assert host.gradient_facts().norm == pytest.approx(119_000, rel=0.02)
    assert [name for name, _ in host.gradients()] == ["0.0"]


def test_many_steps_that_nobody_asks_for():
    """Norms are fetched now and then: none is lost."""
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    host = host_for(None, optimizer)
    host.forget_gradients()
    parameter.grad = torch.ones(1)
    for step in range(1, 2501):
        parameter.grad.fill_(7.0 if step == 1500 else 1.0)
        optimizer.step()
    facts = host.gradient_facts()

    assert (facts.norm, facts.largest, facts.largest_step) == (1.0, 7.0, 1500)


def test_an_optimizer_outlives_whoever_looked_into_it():
    loop = Loop()
    for _ in range(3):
        loop.run([peakhold.TerminateOnNaN()], targets())
    gc.collect()
    loop.step(1.0)

    assert len(loop.optimizer._optimizer_step_pre_hooks) == 1
    assert not step_hook(loop.optimizer).watchers


# Loops that tell


def test_a_loop_of_anything_tells_its_gradients(tmp_path):
    gradients = {"dense": {"w": np.array([3.0, 0.0]), "b": [np.array(4.0)]}}
    host = LoopHost(get_gradients=lambda: gradients)
    board = peakhold.TensorBoard(tmp_path, histogram_freq=1, write_gradients=True)
    guard = peakhold.TerminateOnNaN()
    run = peakhold.CallbackList([guard, board], host=host, verbose=0)
    run.on_train_begin()
    run.on_epoch_begin(0)
    run.on_train_batch_end(0, {"loss": 0.5})
    assert not run.stop_training
    run.on_epoch_end(0, {"loss": 0.5})
    run.on_epoch_begin(1)
    gradients["dense"]["w"][0] = np.nan
    run.on_train_batch_end(0, {"loss": 0.5})
    assert run.stop_training
    run.on_train_end()
    train = opened(tmp_path / "train")

    assert series(train, "epoch_gradient_norm") == [(0, 5.0)]
    assert {"dense.w/gradient", "dense.b.0/gradient"} <= tags(train)
    assert guard.session.stop_reasons == ["the gradient is not finite at batch 0 (TerminateOnNaN)"]


def test_gradients_that_cannot_be_seen_are_an_error_before_the_first_batch(tmp_path):
    board = peakhold.TensorBoard(tmp_path, write_gradients=True)
    run = peakhold.CallbackList([board], verbose=0)
    with pytest.raises(HostError, match=r"gradients that can be seen.*\nHint: .*get_gradients"):
        run.on_train_begin()
