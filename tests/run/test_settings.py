"""What a script has changed since its run began counts; all else comes back."""

import pytest

torch = pytest.importorskip("torch")

from peakhold import Every, LoopHost, Run  # noqa: E402
from peakhold.run.settings import Settings  # noqa: E402

SCHEDULERS = torch.optim.lr_scheduler


def made(*, length=10, decay=0.01, patience=9, milestones=(3, 6)):
    """An optimizer with three schedulers, as a script makes them."""
    optimizer = torch.optim.AdamW(
        torch.nn.Linear(2, 2).parameters(), lr=0.1, weight_decay=decay, betas=(0.9, 0.999)
    )
    extra = {
        "cosine": SCHEDULERS.CosineAnnealingLR(optimizer, length),
        "plateau": SCHEDULERS.ReduceLROnPlateau(optimizer, patience=patience),
        "steps": SCHEDULERS.MultiStepLR(optimizer, milestones),
    }
    return optimizer, extra


def gone_on_with(**changes):
    """What a changed script goes on with, and what it is told."""
    optimizer, extra = made()
    first = Settings(extra, LoopHost(optimizer=optimizer)).first
    for _ in range(2):
        optimizer.step()
        extra["cosine"].step()
        extra["plateau"].step(0.5)
        extra["steps"].step()
    saved = {name: one.state_dict() for name, one in extra.items()}, optimizer.state_dict()

    optimizer, extra = made(**changes)
    settings = Settings(extra, LoopHost(optimizer=optimizer))
    settings.first = first
    optimizer.load_state_dict(saved[1])
    for name, one in extra.items():
        one.load_state_dict(saved[0][name])
    return settings.apply(), optimizer, extra


def test_a_script_that_was_not_changed_is_told_nothing_and_counts_on():
    words, optimizer, extra = gone_on_with()
    assert words == []
    assert extra["cosine"].last_epoch == 2
    assert extra["plateau"].num_bad_epochs == 1
    assert extra["plateau"].best == 0.5


@pytest.mark.parametrize(
    ("changes", "value", "words"),
    [
        ({"length": 40}, lambda o, e: e["cosine"].T_max == 40, ["T_max of extra 'cosine' is 40"]),
        ({"patience": 3}, lambda o, e: e["plateau"].patience == 3, ["patience of extra 'plateau'"]),
        (
            {"milestones": (3, 8)},
            lambda o, e: dict(e["steps"].milestones) == {3: 1, 8: 1},
            ["milestones of extra 'steps'"],
        ),
        ({"decay": 0.1}, lambda o, e: o.param_groups[0]["weight_decay"] == 0.1, []),
    ],
)
def test_what_was_changed_counts_and_the_counts_come_back(changes, value, words):
    told, optimizer, extra = gone_on_with(**changes)
    assert value(optimizer, extra)
    assert extra["cosine"].last_epoch == 2
    assert extra["plateau"].best == 0.5
    assert len(told) == len(words)
    assert all(word in line for word, line in zip(words, told, strict=True))


def train(folder, *, length=10, decay=0.01, rate=0.1, cut=None):
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    scheduler = SCHEDULERS.CosineAnnealingLR(optimizer, length)
    run = Run(
        folder, model=model, optimizer=optimizer, extra={"s": scheduler}, verbose=0,
        save_every=Every(batches=1),
    )  # fmt: skip
    with run:
        for epoch in run.epochs(6):
            for x in run.batches(torch.ones(4, 3, 2)):
                loss = model(x).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.log(loss=loss)
                if epoch == cut:
                    raise RuntimeError
            scheduler.step()
    return optimizer, scheduler


def test_in_a_run_each_difference_is_told_once_with_both_values(tmp_path, capsys):
    with pytest.raises(RuntimeError):
        train(tmp_path / "run", cut=3)
    capsys.readouterr()
    optimizer, scheduler = train(tmp_path / "run", length=40, decay=0.1, rate=0.2)
    said = capsys.readouterr().out
    assert (scheduler.T_max, scheduler.last_epoch) == (40, 6)
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    assert said.count("T_max of extra 's' is 40 in this program and was 10") == 1
    assert said.count("weight_decay is 0.1 in this program and was 0.01") == 1
    assert (
        "lr is 0.2 in this program" in said
    )  # the rate comes back, and how to set another is said
    assert "resume='new'" in said
