"""What alerts do on every host: one suite, run by each host's own test file, over real sockets."""

import contextlib
import copy
import gc
import json
import math
import pickle
import re
import traceback

import pytest

import peakhold
from fake_slack import SECRET, FakeSlack, alert_threads, unused_port
from peakhold.errors import AlertWarning, InvalidArgumentError, MonitorWarning, SaveError

PARTS = [SECRET, *SECRET.split("/")]


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def anonymous(texts):
    """Messages without the run's id, which is drawn."""
    return [re.sub(r"run [0-9a-f]{8}\]", "run]", text) for text in texts]


class AlertBehaviours:
    """Subclasses give `rig`: a fixture that returns a fresh rig."""

    @pytest.fixture
    def slack(self):
        with FakeSlack() as slack:
            yield slack

    @pytest.fixture
    def alert(self, rig, slack):
        """Builds an alert for the fake; no waits between tries, and no limit unless asked for."""

        built = []

        def build(when=None, on=None, **arguments):
            alert = rig.lib.SlackAlert(slack.url, when, on, **{"min_interval_s": 0.0, **arguments})
            alert._peakhold_link.participant.outbox._pause = lambda seconds: None
            built.append(alert)
            return alert

        yield build
        for one in built:
            assert one.flush(60), "nothing is sent after the fake has gone"

    def said(self, alert, slack):
        assert alert.flush(60)
        return anonymous(slack.taken)

    # What is sent

    def test_a_condition_is_told_once_on_its_edge(self, rig, alert, slack):
        one = alert("val_accuracy > 0.92 and epoch >= 3", mode="max")
        rig.run([one], {"val_accuracy": [0.95, 0.93, 0.94, 0.95, 0.91, None, 0.96]}, 7)

        condition = "val_accuracy &gt; 0.92 and epoch &gt;= 3"
        assert self.said(one, slack) == [
            f"[run] epoch 3 of 7: {condition}\nval_accuracy 0.94; best val_accuracy 0.95 at epoch 1",
            f"[run] epoch 7 of 7: {condition}\nval_accuracy 0.96; best val_accuracy 0.96 at epoch 7",
        ]

    def test_epochs_without_the_metric_are_not_yet(self, rig, alert, slack):
        one = alert("val_accuracy > 0.92")
        rig.run([one], {"val_accuracy": [None, 0.95, None, 0.95]}, 4)

        assert len(self.said(one, slack)) == 1

    def test_a_function_counts_epochs_from_0_as_hooks_do(self, rig, alert, slack):
        seen = []

        def overfits(epoch, logs):
            seen.append(epoch)
            return logs["m"] > 0.5

        one = alert(overfits, monitor="m", mode="min", name="digits")
        rig.run([one], {"m": [0.4, 0.6]}, 2)
        texts = self.said(one, slack)

        assert seen == [0, 1]
        assert len(texts) == 1
        assert re.fullmatch(
            r"\[digits, run\] epoch 2 of 2: overfits holds\nm 0.6; best m 0.4 at epoch 1", texts[0]
        )

    def test_a_function_sees_what_callbacks_log_wherever_they_stand(self, rig, alert, slack):
        seen = []

        def looks(epoch, logs):
            seen.append(logs["learning_rate"])
            return False

        schedule = rig.lib.LearningRateScheduler(lambda epoch: [0.5, 0.25][epoch])
        rig.run([alert(looks, monitor="m"), schedule], {}, 2)

        assert seen == [0.5, 0.25]

    def test_a_condition_may_look_at_a_rate_that_nobody_logs(self, rig, alert, slack):
        one = alert("learning_rate < 0.3", monitor="m")
        rig.run([one, rig.rate_setter({0: 0.5, 1: 0.25})], {"m": [0.5, 0.5]}, 2)

        assert self.said(one, slack) == [
            "[run] epoch 2 of 2: learning_rate &lt; 0.3\nm 0.5; learning_rate 0.25"
        ]

    def test_a_function_that_fails_is_a_warning_once(self, rig, alert, slack):
        one = alert(lambda epoch, logs: logs["m"] > 0.92, monitor="m", mode="max")
        with pytest.warns(AlertWarning, match=r"failed at epoch 1 with KeyError: 'm'") as every:
            rig.run([one], {"m": [None, None, 0.93]}, 3)

        assert len([w for w in every if issubclass(w.category, AlertWarning)]) == 1
        assert rig.epochs_run == [0, 1, 2]
        assert self.said(one, slack)[0].startswith("[run] epoch 3 of 3: the condition holds\n")

    def test_a_new_best_is_told_but_not_the_first_value(self, rig, alert, slack):
        one = alert(on="best", monitor="m", mode="min")
        rig.run([one], {"m": [0.5, 0.3, 0.4, math.nan, 0.1]}, 5)

        assert self.said(one, slack) == [
            "[run] epoch 2 of 5: new best m (0.5 before, at epoch 1)\nm 0.3; best m 0.3 at epoch 2",
            "[run] epoch 5 of 5: new best m (0.3 before, at epoch 2)\nm 0.1; best m 0.1 at epoch 5",
        ]

    def test_the_end_is_told_with_its_reason(self, rig, alert, slack):
        one = alert(on=["stop"], monitor="m", mode="min")
        stopper = rig.lib.EarlyStopping("m", mode="min", patience=2)
        rig.run([one, stopper], {"m": [0.5, 0.3, 0.4, 0.4]}, 9)
        assert one.flush(60)
        again = alert(on="stop", monitor="m")
        rig.run([again], {"m": [0.5]}, 1)
        assert again.flush(60)

        reason = "m: no improvement for 2 epochs (EarlyStopping)"
        assert self.said(one, slack) == [
            f"[run] training ended after epoch 4 of 9: {reason}\nm 0.4; best m 0.3 at epoch 2",
            "[run] training ended after epoch 1 of 1: all epochs were run\nm 0.5",
        ]

    def test_a_resumed_run_is_told_and_repeats_nothing(self, rig, alert, slack):
        first = alert("m < 0.4", on=("best", "resume", "stop"), monitor="m", mode="min")
        rig.run([first], {"m": [0.5, 0.3]}, 2)
        assert len(self.said(first, slack)) == 3
        state = json.loads(json.dumps(first.state_dict()))
        del slack.taken[:]
        second = alert("m < 0.4", on=("best", "resume"), monitor="m", mode="min")
        second.load_state_dict(state)
        rig.run([second], {"m": [0, 0, 0.35, 0.2]}, 4, start=2)

        assert self.said(second, slack) == [
            "[run] training goes on from epoch 3 of 4\nm 0.3; best m 0.3 at epoch 2",
            "[run] epoch 4 of 4: new best m (0.3 before, at epoch 2)\nm 0.2; best m 0.2 at epoch 4",
        ]

    def test_the_same_object_goes_on_or_starts_afresh(self, rig, alert, slack):
        one = alert("m < 0.4", monitor="m", mode="min")
        rig.run([one], {"m": [0.3]}, 1)
        rig.run([one], {"m": [0, 0.3]}, 2, start=1)
        assert len(self.said(one, slack)) == 1
        rig.run([one], {"m": [0.3]}, 1)

        assert len(self.said(one, slack)) == 2

    def test_too_many_messages_are_held_back_until_the_end(self, rig, alert, slack):
        one = alert(on=("best", "stop"), monitor="m", mode="min", min_interval_s=60.0)
        one._peakhold_link.participant.clock = Clock()
        rig.run([one], {"m": [0.9, 0.8, 0.7, 0.6, 0.5]}, 5)

        assert [text.partition("\n")[0] for text in self.said(one, slack)] == [
            "[run] epoch 2 of 5: new best m (0.9 before, at epoch 1)",
            "[run] epoch 5 of 5: new best m (0.6 before, at epoch 4)",
            "[run] training ended after epoch 5 of 5: all epochs were run",
        ]
        assert slack.taken[1].endswith("m 0.5; best m 0.5 at epoch 5 (and 2 earlier)")

    def test_what_was_held_back_is_sent_when_its_time_comes(self, rig, alert, slack):
        clock = Clock()

        def passes(epoch, logs):
            clock.now = 45.0 * epoch
            return False

        one = alert(passes, on="best", monitor="m", mode="min", min_interval_s=60.0)
        one._peakhold_link.participant.clock = clock
        rig.run([one], {"m": [0.9, 0.8, 0.7, 0.75, 0.76, 0.77]}, 6)

        assert [text.partition(":")[0] for text in self.said(one, slack)] == [
            "[run] epoch 2 of 6", "[run] epoch 3 of 6",
        ]  # fmt: skip

    def test_a_message_of_ones_own(self, rig, alert, slack):
        one = alert("m < 0", monitor="m")
        one.send("before any run")
        rig.run([one], {"m": [0.5]}, 1)
        one.send("look <here>")

        assert [text.partition("\n")[0] for text in self.said(one, slack)] == [
            "[run] before any run", "[run] look &lt;here&gt;",
        ]  # fmt: skip

    def test_only_the_first_worker_speaks(self, rig, alert, slack, monkeypatch):
        monkeypatch.setenv("RANK", "1")
        one = alert(on="stop")
        rig.run([one], {}, 1)

        assert self.said(one, slack) == []

    # Failure

    def test_an_exception_that_is_caught_outside_is_told(self, rig, alert, slack):
        one = alert(on=("failure", "stop"), monitor="m", mode="min")
        with contextlib.suppress(ZeroDivisionError):
            rig.run([one], {"m": [0.5, 0.3]}, 9, raise_at=2)
        gc.collect()
        texts = self.said(one, slack)

        assert len(texts) == 1
        assert texts[0] in {
            f"[run] training failed {where} of 9: {reason}\nm 0.3; best m 0.3 at epoch 2"
            for where in ("in epoch 3", "after epoch 2")
            for reason in (
                "it ended without on_train_end, most likely by an exception", "ZeroDivisionError",
            )
        }  # fmt: skip
        assert one._peakhold_link.participant.open_run is None

    def test_the_next_run_tells_at_the_latest(self, rig, alert, slack):
        one = alert(on="failure", monitor="m")
        held = None
        try:
            rig.run([one], {}, 9, raise_at=1)
        except ZeroDivisionError as error:
            held = error  # keeps every frame of the run
        rig.run([one], {}, 1)
        texts = [text.partition("\n")[0] for text in self.said(one, slack)]

        assert held is not None
        assert texts == [
            f"[run] training failed {rig.raised_at} of 9: it had not ended when the next run began"
        ]

    def test_a_run_that_ends_as_it_should_is_no_failure(self, rig, alert, slack):
        one = alert(on="failure")
        rig.run([one], {}, 2)
        rig.rebuild()
        gc.collect()

        assert self.said(one, slack) == []

    @pytest.mark.parametrize("order", [1, -1])
    def test_what_cannot_work_is_an_error_and_no_failure_of_training(
        self, rig, alert, slack, tmp_path, order
    ):
        path = tmp_path / "log.csv"
        path.write_text("no log of this kind\n")
        one = alert(on="failure")
        with pytest.raises(SaveError, match="its first line is 'no log of this kind'"):
            rig.run([one, rig.lib.CSVLogger(path, append=True)][::order], {}, 2)
        rig.rebuild()
        gc.collect()

        assert self.said(one, slack) == []

    # What a receiver may do

    @pytest.mark.parametrize(
        "trouble",
        ["cut", "half", "garbage", "hang", 500, (429, {"Retry-After": "0"})],
        ids=str,
    )
    def test_all_arrive_in_order_where_it_answers_at_last(self, rig, alert, slack, trouble):
        slack.script += [trouble, trouble, 200, trouble]
        one = alert("m > 0.5", on=("best", "stop"), monitor="m", mode="max", timeout_s=0.3)
        rig.run([one], {"m": [0.1, 0.9, 0.1]}, 3)

        assert [text.partition("\n")[0] for text in self.said(one, slack)] == [
            "[run] epoch 2 of 3: m &gt; 0.5",
            "[run] epoch 2 of 3: new best m (0.1 before, at epoch 1)",
            "[run] training ended after epoch 3 of 3: all epochs were run",
        ]
        assert len(slack.texts) == 6

    @pytest.mark.parametrize("trouble", [404, (302, {"Location": "https://example.com/"})], ids=str)
    def test_a_dead_webhook_is_said_once_and_raises_nothing(self, rig, alert, slack, trouble):
        slack.script += [trouble] * 9
        one = alert("m > 0.5", on=("best", "stop"), monitor="m", mode="max")
        wait = Waits(one, slack)
        with pytest.warns(AlertWarning) as every:
            rig.run([one, *rig.users(wait)], {"m": [0.1, 0.9, 0.1, 0.95]}, 5)

        caught = [w for w in every if issubclass(w.category, AlertWarning)]

        assert rig.epochs_run == [0, 1, 2, 3, 4]
        assert len(caught) == 1
        assert str(caught[0].message).startswith(
            "SlackAlert: an alert to 127.0.0.1 was not delivered: "
        )
        assert not any(part in str(caught[0].message) for part in PARTS)

    def test_a_webhook_where_nobody_listens(self, rig, capsys, recwarn):
        """Said by a warning while somebody trains, on stderr afterwards; once."""
        url = f"http://127.0.0.1:{unused_port()}/{SECRET}"
        one = rig.lib.SlackAlert(url, on="stop", tries=2)
        one._peakhold_link.participant.outbox._pause = lambda seconds: None
        rig.run([one], {}, 2)
        assert one.flush(60)
        for thread in alert_threads():
            thread.join(60)
        said = capsys.readouterr().err + "".join(str(w.message) for w in recwarn)

        assert said.count("127.0.0.1 was not delivered: Connection refused (2 tries)") == 1
        assert said.count("not delivered") == 1

    # Mistakes

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"when": "m = 1"},
                r"a condition over metrics \(no condition at character 3\), got when",
            ),
            ({"when": 3}, "a condition as text, or a function"),
            ({"on": "end"}, "one or several of 'best', 'stop', 'failure', 'resume', got on='end'"),
            ({"on": 3}, "one or several of"),
            ({"on": ()}, "one or several of"),
            ({"mode": "up"}, "'min', 'max' or 'auto', got mode='up'"),
            ({"monitor": ""}, "the name of a metric"),
            ({"min_interval_s": -1}, "a number of seconds, at least 0, got min_interval_s=-1"),
            ({"tries": 0}, "an int of at least 1, got tries=0"),
            ({"timeout_s": 0}, "a number of seconds, at least 0.001, got timeout_s=0"),
            ({"exit_timeout_s": math.nan}, "a number of seconds, at least 0"),
            ({"name": ""}, "what to call the run"),
            ({"webhook": b"https://x/y"}, "a URL as a string, got webhook='bytes'"),
        ],
        ids=str,
    )
    def test_mistakes_are_errors_at_construction(self, rig, arguments, message):
        with pytest.raises(InvalidArgumentError, match=message):
            rig.lib.SlackAlert(**{"webhook": "https://hooks.slack.com/x", **arguments})

    def test_the_direction_must_be_known_only_for_a_new_best(self, rig, alert, slack):
        one = alert("strange > 0.5")
        rig.run([one], {"strange": [0.9]}, 1)
        two = alert(on="best", monitor="strange")
        with pytest.warns(MonitorWarning, match="pass mode='min' or mode='max'"):
            rig.run([two], {"strange": [0.9, 0.8]}, 2)

        assert len(self.said(one, slack)) == 1

    def test_a_name_that_nobody_logs_is_said_at_the_end(self, rig, alert):
        with pytest.warns(MonitorWarning, match="looks at 'm_typ', which was never logged; did"):
            rig.run([alert("m_typ > 0.5 and epoch > 1")], {"m_type": [0.9]}, 1)

    # The secret

    def test_the_environment_gives_the_webhook(self, rig, slack, monkeypatch):
        with pytest.raises(InvalidArgumentError, match="variable PEAKHOLD_SLACK_WEBHOOK, got"):
            rig.lib.SlackAlert(on="stop")
        monkeypatch.setenv("PEAKHOLD_SLACK_WEBHOOK", slack.url)
        one = rig.lib.SlackAlert(on="stop")
        rig.run([one], {}, 1)

        assert len(self.said(one, slack)) == 1

    def test_copies_work_and_pickles_hold_no_secret(self, rig, alert, slack, monkeypatch):
        one = alert(on="stop", monitor="m")
        rig.run([one], {}, 1)
        twin = copy.deepcopy(one)
        rig.run([twin], {}, 1)
        assert twin.flush(60)
        assert len(self.said(one, slack)) == 2

        stored = pickle.dumps(one)
        assert not any(part.encode() in stored for part in PARTS)
        back = pickle.loads(stored)
        monkeypatch.delenv("PEAKHOLD_SLACK_WEBHOOK", raising=False)
        with pytest.raises(InvalidArgumentError, match="a pickled alert has none either"):
            rig.run([back], {}, 1)
        monkeypatch.setenv("PEAKHOLD_SLACK_WEBHOOK", slack.url)
        rig.run([back], {}, 1)
        assert back.flush(60)
        assert len(slack.taken) == 3

    def test_a_users_subclass_is_copied_and_pickled_in_the_middle_of_a_run(self, rig, alert, slack):
        one = Own(slack.url, "m > 0", on="failure", monitor="m")
        copies = []

        def copies_itself(epoch, logs):
            copies.append((copy.deepcopy(one), pickle.dumps(one)))
            return False

        rig.run([*rig.users(one), alert(copies_itself)], {"m": [0.5]}, 1)
        assert one.flush(60)
        (twin, stored), back = copies[0], pickle.loads(copies[0][1])

        assert not any(part.encode() in stored for part in PARTS)
        twin, back = twin._peakhold_link.participant, back._peakhold_link.participant
        assert (twin.open_run, back.open_run, back.outbox) == (None, None, None)
        assert bool(twin.secret)
        assert not back.secret

    def test_no_error_shows_the_secret_with_all_variables_of_all_frames(self, rig):
        forms = [f"http://example.com/{SECRET}", f"https://u:{SECRET}@x/", f"https://[/{SECRET}"]
        wrong = [{"webhook": form} for form in forms]
        good = f"https://hooks.slack.com/{SECRET}"
        wrong += [{"webhook": good, "when": "a ="}, {"webhook": good, "on": "x"},
                  {"webhook": good, "tries": 0}, {"webhook": good, "mode": "x"}]  # fmt: skip
        for arguments in wrong:
            with pytest.raises(InvalidArgumentError) as caught:
                rig.lib.SlackAlert(**arguments)
            frames = caught.value.__traceback__.tb_next  # without the frame of this test
            shown = traceback.TracebackException(
                type(caught.value), caught.value, frames, capture_locals=True
            )

            assert not any(part in "".join(shown.format()) for part in PARTS)

    def test_neither_state_nor_attributes_show_the_secret(self, rig, alert, slack):
        one = alert("m > 0.5", on="stop")
        rig.run([one], {"m": [0.9]}, 1)

        participant = one._peakhold_link.participant
        shown = f"{one!r} {vars(one)} {one.state_dict()} "
        shown += f"{vars(participant)} {vars(participant.outbox)}"
        assert not any(part in shown for part in PARTS)

    def test_a_state_of_something_else_is_refused(self, rig, alert):
        one = alert("m > 0.5")
        with pytest.raises(InvalidArgumentError, match="expected the state of"):
            one.load_state_dict({"class": "EarlyStopping", "state": {}})


class Own(peakhold.SlackAlert):
    """A user's subclass, written for loops."""


class Waits(peakhold.Callback):
    """A user's callback that lets the messages of an epoch be dealt with before the next."""

    def __init__(self, alert, slack):
        super().__init__()
        self.alert = alert

    def on_epoch_begin(self, epoch, logs=None):
        assert self.alert.flush(60)
