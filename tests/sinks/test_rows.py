"""What a tracker shows of a run's events."""

import copy

from peakhold.sinks.rows import BestEpoch, RowMaker


def ends(epoch, value, decisions=(), facts=(), **more):
    return {
        "kind": "moment", "event": "on_epoch_end", "epoch": epoch, "step": 10 * (epoch + 1),
        "metrics": {"val_loss": value}, "decisions": dict(decisions), "facts": dict(facts), **more,
    }  # fmt: skip


def begins(epoch, **facts):
    return {"kind": "moment", "event": "on_epoch_begin", "epoch": epoch, "step": 0, "facts": facts}


def save(ticket, value, retry=None):
    return {"decision": "Save", "reason": "better than every saved file", "ticket": ticket,
            "value": value, "handed_over": False, "retry": retry}  # fmt: skip


def remember(ticket):
    return {"decision": "Remember", "reason": "better", "ticket": ticket}


def failed(ticket):
    return {"fact": "Failed", "ticket": ticket, "reason": "the disk is full", "may_retry": True}


def test_a_row_has_metrics_rates_and_updates():
    rows = RowMaker()
    row = rows.take(ends(3, 0.5, rates={"": 0.1}))
    assert (row.epoch, row.metrics) == (3, {"val_loss": 0.5, "learning_rate": 0.1, "updates": 40})
    row = rows.take(ends(4, 0.5, rates={"generator": 0.1, "judge": 0.2}))
    assert row.metrics["learning_rate/generator"] == 0.1
    assert row.metrics["learning_rate/judge"] == 0.2


def test_what_is_no_end_of_an_epoch_makes_no_row_and_other_workers_none():
    rows = RowMaker()
    assert rows.take({"kind": "start", "run": "7f3a"}) is None
    assert rows.take(begins(0)) is None
    assert rows.take(ends(0, 0.5, {"E": [remember(1)]}, rank=1)) is None
    assert rows.best is None


def test_decisions_within_an_epoch_stand_in_the_row_that_follows():
    rows = RowMaker()
    stop = {"decision": "Stop", "reason": "the loss is nan", "bad": True}
    within = {"kind": "moment", "event": "on_train_batch_end", "epoch": 2, "batch": 5, "step": 25}
    assert rows.take({**within, "decisions": {"TerminateOnNaN": [stop]}}) is None
    quiet = [{"decision": "Continue", "reason": "no improvement"},
             {"decision": "Skip", "reason": "did not improve", "bad": False}]  # fmt: skip
    cut = {
        "decision": "SetLearningRate",
        "reason": "no improvement for 2 epochs",
        "name": "",
        "value": 0.1,
    }
    row = rows.take(ends(2, 0.5, {"Plateau": [cut], "Other": quiet}))
    assert row.decided == (
        "TerminateOnNaN: stop: the loss is nan; Plateau: set learning rate: no improvement for 2 epochs"
    )
    assert rows.lines == [f"epoch 3: {row.decided}"]
    assert rows.stopped == "the loss is nan (TerminateOnNaN)"
    assert rows.take(ends(3, 0.5)).decided == ""


def test_the_best_is_of_files_before_memory():
    rows = RowMaker()
    rows.take(ends(0, 0.5, {"E": [remember(1)], "M": [save(1, 0.5)]}))
    rows.take(ends(1, 0.4999, {"M": [save(2, 0.4999)]}))  # less than stopping's min_delta
    assert rows.best == BestEpoch(1, {"val_loss": 0.4999})
    assert rows.take(ends(2, 0.6)).best.flat() == {"best/epoch": 1, "best/val_loss": 0.4999}


def test_a_save_without_a_rank_is_no_best():
    rows = RowMaker()
    rows.take(ends(0, 0.5, {"E": [remember(1)], "M": [save(1, None)]}))
    rows.take(ends(1, 0.6, {"M": [save(2, None)]}))
    assert rows.best.epoch == 0


def test_what_came_to_nothing_is_no_best_any_more_until_it_is_saved_once_more():
    rows = RowMaker()
    rows.take(ends(0, 0.5, {"M": [save(1, 0.5)]}))
    rows.take(ends(1, 0.4, {"M": [save(2, 0.4)]}))
    rows.take(begins(2, M=[failed(2)]))
    assert rows.best.epoch == 0
    row = rows.take(ends(2, 0.7, {"M": [save(3, 0.4, retry=2)]}))
    assert row.best == BestEpoch(1, {"val_loss": 0.4})


def test_weights_that_are_not_finite_are_no_best():
    rows = RowMaker()
    rows.take(ends(0, 0.5, {"E": [remember(1)]}))
    rows.take(ends(1, 0.4, {"E": [remember(2)]}))
    not_finite = {"fact": "NotFinite", "ticket": 2, "defect": "NaN in w"}
    assert rows.take(ends(2, 0.4, facts={"E": [not_finite]})).best.epoch == 0


def test_what_a_run_finds_when_it_goes_on_counts():
    rows = RowMaker()
    rows.take(ends(0, 0.5, {"M": [save(1, 0.5)]}))
    rows.take(ends(1, 0.4, {"M": [save(2, 0.4)]}))
    other = copy.deepcopy(rows)
    rows.take(begins(2, M=[{"fact": "Found", "value": 0.5, "epoch": 0, "ticket": 0}]))
    assert rows.best.epoch == 0
    other.take(begins(2, M=[{"fact": "Found", "value": None, "epoch": None, "ticket": 0}]))
    assert other.best is None
