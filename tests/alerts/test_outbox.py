"""The queue and its thread: order, tries, waits, the limit at the end, what is said."""

import copy
import gc
import os
import subprocess
import sys
import textwrap
import threading

import pytest

from fake_slack import FakeSlack, alert_threads, unused_port
from peakhold.alerts import Outbox, Outcome, SlackSender

PASSING = Outcome(False, "busy", retry=True)


class Scripted:
    """A sender that plays outcomes, then delivers."""

    where = "a test"

    def __init__(self, *outcomes):
        self.outcomes, self.asked, self.taken, self.limits = list(outcomes), [], [], []

    def send(self, text, timeout_s):
        self.asked.append(text)
        self.limits.append(timeout_s)
        outcome = self.outcomes.pop(0) if self.outcomes else Outcome(True)
        if isinstance(outcome, Exception):
            raise outcome
        if outcome.delivered:
            self.taken.append(text)
        return outcome


class Held:
    """A sender that delivers nothing until it is told to."""

    where = "a test"

    def __init__(self):
        self.begun, self.go, self.taken = threading.Event(), threading.Event(), []

    def send(self, text, timeout_s):
        self.begun.set()
        self.go.wait()
        self.taken.append(text)
        return Outcome(True)


def outbox(sender, waits=None, **arguments):
    arguments = {
        "chance": lambda: 1.0,
        "pause": ([] if waits is None else waits).append,
        **arguments,
    }
    box = Outbox(sender, **arguments)
    box.attended = True
    return box


def test_messages_are_sent_in_order_and_the_thread_ends():
    sender = Scripted()
    box = outbox(sender)
    for number in range(20):
        box.push(str(number))

    assert box.flush(30)
    assert sender.taken == [str(number) for number in range(20)]
    for thread in alert_threads():
        thread.join(30)
    assert box._thread is None


def test_a_message_is_tried_again_with_growing_waits():
    sender, waits = Scripted(*[PASSING] * 4), []
    box = outbox(sender, waits, tries=5)
    box.push("a")
    box.push("b")

    assert box.flush(30)
    assert (sender.taken, sender.asked) == (["a", "b"], ["a"] * 5 + ["b"])
    assert waits == [1.0, 2.0, 4.0, 8.0]
    assert box.complaint() is None


def test_waits_are_spread_and_end_at_a_minute():
    waits = []
    box = outbox(Scripted(*[PASSING] * 9), waits, tries=10, chance=lambda: 0.0)
    box.push("a")

    assert box.flush(30)
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_what_the_receiver_asks_is_waited():
    waits = []
    box = outbox(Scripted(Outcome(False, "429", retry=True, wait_s=17.0)), waits)
    box.push("a")

    assert box.flush(30)
    assert waits == [17.0]


def test_more_than_an_hour_is_not_waited():
    sender, waits = Scripted(Outcome(False, "429", retry=True, wait_s=3601.0)), []
    box = outbox(sender, waits)
    box.push("a")

    assert box.flush(30)
    assert (sender.asked, waits, box.n_lost) == (["a"], [], 1)


def test_what_will_not_get_better_is_given_up_at_once_and_said_once():
    sender = Scripted(Outcome(False, "answer 404"), Outcome(False, "answer 404"))
    box = outbox(sender)
    for text in "abc":
        box.push(text)

    assert box.flush(30)
    assert sender.taken == ["c"]
    assert box.n_lost == 2
    assert box.complaint() == (
        "an alert to a test was not delivered: answer 404 (1 try). "
        "Training goes on; this is said once."
    )
    assert box.complaint() is None


def test_a_sender_that_raises_costs_one_message_and_shows_only_the_kind():
    sender = Scripted(ValueError("https://secret"))
    box = outbox(sender)
    box.push("a")
    box.push("b")

    assert box.flush(30)
    assert sender.taken == ["b"]
    assert "not delivered: ValueError (1 try)" in box.complaint()


def test_a_full_outbox_drops_the_oldest_that_waits():
    sender = Held()
    box = outbox(sender, size=3)
    box.push("0")
    assert sender.begun.wait(30)
    for text in "1234":
        box.push(text)
    sender.go.set()

    assert box.flush(30)
    assert sender.taken == ["0", "3", "4"]
    assert "too many were waiting" in box.complaint()


def test_what_waits_already_is_not_sent_twice():
    sender = Held()
    box = outbox(sender)
    box.push("0")
    assert sender.begun.wait(30)
    for text in ("1", "2", "1", "0"):
        box.push(text)
    sender.go.set()

    assert box.flush(30)
    assert sender.taken == ["0", "1", "2"]
    box.push("1")
    assert box.flush(30)
    assert sender.taken == ["0", "1", "2", "1"], "later it is news again"


def test_flush_has_a_limit():
    sender = Held()
    box = outbox(sender)
    box.push("0")

    assert not box.flush(0.01)
    sender.go.set()
    assert box.flush(30)


def test_with_nobody_to_ask_the_thread_says_it(capsys):
    box = outbox(Scripted(Outcome(False, "answer 404")))
    box.attended = False
    box.push("a")
    assert box.flush(30)

    assert capsys.readouterr().err.startswith("Peakhold: an alert to a test was not delivered: ")
    assert box.complaint() is None


def test_a_copy_takes_neither_messages_nor_thread():
    sender = Held()
    box = outbox(sender)
    box.push("0")

    assert copy.deepcopy({"box": box}) == {"box": None}
    sender.go.set()
    assert box.flush(30)


def test_the_collector_may_push_inside_of_a_push():
    """The end of another run is told from a finalizer, which may run anywhere."""
    sender = Scripted()
    box = outbox(sender)
    with box._changed:
        box.push("from inside")

    assert box.flush(30)
    assert sender.taken == ["from inside"]


def test_a_forked_child_sends_nothing_and_can_send_anew():
    sender = Held()
    box = outbox(sender)
    box.push("0")
    assert sender.begun.wait(30)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            sender.go.set()
            box.sender = Scripted()
            empty = box.flush(0)
            box.push("of the child")
            code = 0 if empty and box.flush(30) and box.sender.taken == ["of the child"] else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    sender.go.set()

    assert os.waitstatus_to_exitcode(status) == 0
    assert box.flush(30)
    assert sender.taken == ["0"]


# Over a socket


def slack_outbox(slack, **arguments):
    return outbox(SlackSender(slack.url), **arguments)


@pytest.mark.parametrize(
    "trouble",
    ["cut", "half", "garbage", 500, (429, {"Retry-After": "0"}), (503, {"Retry-After": "1"})],
    ids=str,
)
def test_nothing_is_lost_and_the_order_holds(trouble):
    with FakeSlack(200, trouble, trouble, 200, trouble) as slack:
        box = slack_outbox(slack)
        for text in "abcd":
            box.push(text)
        assert box.flush(60)

    assert slack.taken == ["a", "b", "c", "d"]
    assert slack.texts == ["a", "b", "b", "b", "c", "c", "d"]
    assert box.complaint() is None


def test_a_server_that_hangs_costs_its_tries():
    with FakeSlack("hang", "hang") as slack:
        box = slack_outbox(slack, timeout_s=0.1)
        box.push("a")
        assert box.flush(60)

    assert slack.taken == ["a"]


def test_no_socket_is_left(recwarn):
    def sockets():
        gc.collect()
        found = []
        for name in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{name}")
            except OSError:
                continue
            found += [target] * target.startswith("socket:")
        return sorted(found)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no list of open files on this system")
    before = sockets()
    with FakeSlack(200, "cut", "half", 500, (307, {"Location": "/x"}), 404, "garbage") as slack:
        box = slack_outbox(slack)
        for text in "abcdef":
            box.push(text)
        assert box.flush(60)
    dead = outbox(SlackSender(f"http://127.0.0.1:{unused_port()}/"), tries=2)
    dead.push("x")
    assert dead.flush(60)

    assert sockets() == before
    assert [w for w in recwarn if issubclass(w.category, ResourceWarning)] == []


# At the end of a process


def run_and_exit(body, url, **environment):
    code = (
        "import sys, threading, time\n"
        "from peakhold.alerts import Outbox, SlackSender\n"
        "url = sys.argv[1]\n" + textwrap.dedent(body)
    )
    return subprocess.run(
        [sys.executable, "-X", "dev", "-c", code, url],
        capture_output=True, text=True, timeout=120, env={**os.environ, **environment},
    )  # fmt: skip


def test_what_is_under_way_is_sent_before_the_process_ends():
    with FakeSlack("cut", "cut") as slack:
        done = run_and_exit(
            """
            box = Outbox(SlackSender(url), exit_timeout_s=60)
            for text in "abc":
                box.push(text)
            """,
            slack.url,
        )

    assert (done.returncode, done.stderr) == (0, "")
    assert slack.taken == ["a", "b", "c"]


@pytest.mark.parametrize("trouble", ["hang", "drip", (429, {"Retry-After": "600"})], ids=str)
def test_the_end_waits_so_long_and_no_longer(trouble):
    """The program measures itself: from its last line to the last of all exit handlers."""
    with FakeSlack(*[trouble] * 9) as slack:
        done = run_and_exit(
            """
            box = Outbox(SlackSender(url), timeout_s=100, exit_timeout_s=0.5)
            farewells = sys.modules["peakhold.process"]._for_exit
            farewells.insert(0, lambda: print(time.monotonic() - began))
            box.push("a"); box.push("b")
            began = time.monotonic()
            """,
            slack.url,
        )

    assert done.returncode == 0
    assert 0 <= float(done.stdout) < 50, "half a second and what a busy machine adds, not a try"
    assert done.stderr.count("Peakhold: an alert to 127.0.0.1 was not delivered") == 1
    assert done.stderr.count("\n") == 1


def test_an_idle_process_ends_at_once_and_without_a_word():
    done = run_and_exit(
        """
        box = Outbox(SlackSender(url))
        print(threading.active_count())
        """,
        "http://127.0.0.1:1/x",
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_a_thread_that_stays_waits_for_more_and_ends_with_close():
    sender = Scripted()
    box = outbox(sender, stays=True)
    box.push("one")
    assert box.flush(30)
    thread = box._thread
    box.push("two")
    assert box.flush(30)
    assert box._thread is thread
    assert thread.is_alive()
    box.close(30)
    thread.join(30)
    assert not thread.is_alive()
    assert sender.taken == ["one", "two"]
    assert box.n_lost == 0


def test_close_gives_up_what_waits_and_counts_each_once():
    sender = Held()
    box = outbox(sender, stays=True, what="a row")
    for text in ("one", "two", "three"):
        box.push(text)
    assert sender.begun.wait(30)
    thread = box._thread
    box.close(0.01)
    assert box.n_lost == 3
    assert "a row to a test was not delivered: it took longer than 0.01 s" in box.complaint()
    sender.go.set()
    thread.join(30)
    assert not thread.is_alive()
    assert sender.taken == ["one"]  # it was under way
    assert box.n_lost == 3
