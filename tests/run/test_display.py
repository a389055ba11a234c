"""What people see of a run: a bar, lines, a table; and none of them ends training."""

import errno
import logging
import os
import pty
import subprocess
import sys
import textwrap
import types
import warnings

import pytest

from broken_streams import STREAMS, narrow
from peakhold import speech
from peakhold.run.display import choosing, display_for
from peakhold.run.display.display import Display
from terminals import Terminal, screen


@pytest.fixture(autouse=True)
def _a_terminal_of_our_time(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "140")


@pytest.fixture
def terminal(monkeypatch):
    """One that is there from `begin()` on: between a fixture and its test pytest sets streams."""
    stream = Terminal()

    def begin():
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)

    stream.begin = begin
    return stream


class Clock:
    """Seconds, as a test tells them."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def run(display, epochs=2, batches=3, middle=lambda: None):
    display.begin("runs/digits", epochs)
    for epoch in range(epochs):
        display.epoch_begins(epoch, batches)
        for i in range(batches):
            display.batch_done(i)
            middle()
        display.epoch_ends(epoch, {"loss": 0.5, "val_loss": 1 / 3}, "val_loss 0.33333 (epoch 1)", 4)
    display.end("runs/digits: all epochs")


# A line an epoch


def without_times(text):
    return [line.rpartition("; ")[0] or line for line in text.splitlines()]


@pytest.mark.parametrize("verbose", ["auto", 1, True, 2])
def test_without_a_terminal_there_is_one_line_an_epoch(verbose, capsys):
    run(display_for(verbose))

    assert without_times(capsys.readouterr().out) == [
        "Epoch 1/2: loss 0.5, val_loss 0.33333; best val_loss 0.33333 (epoch 1); 4 checks left",
        "Epoch 2/2: loss 0.5, val_loss 0.33333; best val_loss 0.33333 (epoch 1); 4 checks left",
        "runs/digits: all epochs",
    ]


def test_nothing_of_the_display_is_seen_where_nothing_is_asked_for(capsys, terminal):
    terminal.begin()
    display = display_for(0)
    display.begin("runs/digits", 1)
    display.epoch_begins(0, 1)
    display.batch_done(0)
    display.epoch_ends(0, {"loss": 0.5})
    display.end()

    assert terminal.getvalue() == ""


def test_verbose_2_is_lines_on_a_terminal_too(terminal):
    terminal.begin()
    run(display_for(2))

    assert "\r" not in terminal.getvalue()
    assert terminal.getvalue().count("\n") == 3


def test_a_run_without_epochs_has_a_line_a_check(capsys):
    display = display_for(2)
    display.begin("runs/lm", None)
    display.epoch_begins(None, 100_000)
    for i in range(500):
        display.batch_done(i)
    display.checked(1500, {"val_loss": 2.5}, "val_loss 2.5 (step 1,500)", 1)
    display.end()

    text = "Step 1,500: val_loss 2.5; best val_loss 2.5 (step 1,500); 1 check left\n"
    assert capsys.readouterr().out == text


def test_the_speed_of_an_epoch_is_of_its_batches_alone(capsys):
    """The first compiles, the evaluation is another thing, and a resumed epoch begins late."""
    clock = Clock()
    display = Display(display_for(2)._canvas, clock)
    display.begin("runs/digits", None)
    display.epoch_begins(0, 100)
    for i in range(40, 100):
        clock.now += 30 if i == 40 else 0.5
        display.batch_done(i)
    display.part_begins("val", 10)
    for i in range(10):
        clock.now += 7
        display.batch_done(i)
    display.part_ends()
    display.epoch_ends(0, {})

    assert capsys.readouterr().out == "Epoch 1: nothing logged; 2:10, 2.0 batches/s\n"


# A bar


def bar_of(clock, epochs=4):
    display = display_for()
    display = Display(display._canvas, clock)
    display.begin("runs/digits", epochs)
    return display


def test_a_bar_tells_where_the_run_is(terminal):
    terminal.begin()
    clock = Clock()
    display = bar_of(clock)
    display.epoch_begins(0, 10)
    for i in range(10):
        clock.now += 2
        display.batch_done(i)
        if i == 4:
            assert terminal.seen[-1].endswith("5/10  2.0 s a batch  0:10 left")
    display.epoch_ends(0, {"loss": 0.5}, "loss 0.5 (epoch 1)", 3)
    display.epoch_begins(1, 10)
    for i in range(5):
        clock.now += 2
        display.batch_done(i)

    row, bar = terminal.seen
    assert row == "Epoch 1/4: loss 0.5; best loss 0.5 (epoch 1); 3 checks left; 0:20, 2.0 s a batch"
    assert bar.startswith("Epoch 2/4 ━━━━━━━━━━━")
    assert bar.endswith(
        "5/10  2.0 s a batch  0:10 left, 0:50 for all epochs  best loss 0.5 (epoch 1); 3 checks left"
    )
    display.end("over")
    assert terminal.seen == [row, "over", ""]


def test_of_batches_that_nobody_has_counted_a_bar_tells_how_many_there_were(terminal):
    terminal.begin()
    clock = Clock()
    display = bar_of(clock, None)
    display.epoch_begins(0, None)
    for i in range(5):
        clock.now += 0.25
        display.batch_done(i)

    assert terminal.seen == ["Epoch 1 5 batches  4.0 batches/s"]


def test_an_evaluation_has_a_bar_and_the_epoch_goes_on_after_it(terminal):
    terminal.begin()
    clock = Clock()
    display = bar_of(clock)
    display.epoch_begins(0, 10)
    for i in range(4):
        clock.now += 1
        display.batch_done(i)
    display.part_begins("val", 3)
    clock.now += 1
    display.batch_done(0)
    assert terminal.seen[-1].startswith("Epoch 1/4 val ")
    assert terminal.seen[-1].endswith(" 1/3")
    display.part_ends()
    clock.now += 1
    display.batch_done(4)

    assert terminal.seen[-1].endswith("5/10  1.0 batches/s  0:05 left")


@pytest.mark.parametrize("cost", [0.0, 0.004, 1.0])
def test_drawing_takes_no_more_than_a_hundredth_of_the_time(terminal, cost, monkeypatch):
    terminal.begin()
    clock, drawn = Clock(), []
    display = bar_of(clock)

    def draw(progress, now):
        drawn.append(now)
        clock.now += cost

    monkeypatch.setattr(display._canvas, "draw", draw)
    display.epoch_begins(0, None)
    for i in range(100_000):
        clock.now += 0.001
        display.batch_done(i)

    spent = clock.now - 1000
    assert drawn
    assert len(drawn) <= spent / 0.1 + 2
    assert cost * (len(drawn) - 1) <= 0.0101 * spent


def test_a_bar_is_never_wider_than_the_terminal(terminal, monkeypatch):
    terminal.begin()
    monkeypatch.setenv("COLUMNS", "30")
    clock = Clock()
    display = bar_of(clock)
    display.epoch_begins(0, 10)
    display.batch_done(0)

    assert len(terminal.seen[-1]) == 29
    assert terminal.seen[-1].endswith("…")


OTHERS = {
    "print": (lambda: print("a line"), ["a line"]),
    "a message of ours": (lambda: speech.say("Epoch 1: saved [/x]"), ["Epoch 1: saved [/x]"]),
    "in pieces": (lambda: print("a", "line", end=".\n", flush=True), ["a line."]),
    "markup": (lambda: print("[/x] [bold]", flush=True), ["[/x] [bold]"]),
    "many lines": (lambda: sys.stdout.writelines(["a\n", "b\n"]), ["a", "b"]),
    "to stderr": (lambda: print("a line", file=sys.stderr), ["a line"]),
    "wide": (lambda: print("x" * 500), ["x" * 500]),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_others_print_stands_on_lines_of_its_own(kind, terminal):
    terminal.begin()
    write, lines = OTHERS[kind]
    clock = Clock()
    display = bar_of(clock)
    display.epoch_begins(0, 3)
    for i in range(3):
        clock.now += 1
        display.batch_done(i)
        write()

    assert terminal.seen[:-1] == lines * 3
    clock.now += 1
    display.batch_done(3)
    assert terminal.seen[-1].startswith("Epoch 1/4 ")


def test_half_a_line_has_its_line_until_it_is_whole(terminal):
    terminal.begin()
    clock = Clock()
    display = bar_of(clock)
    display.epoch_begins(0, 10)
    for i in range(5):
        clock.now += 1
        display.batch_done(i)
        print(".", end="")
    assert terminal.seen == ["....."]
    print()
    clock.now += 1
    display.batch_done(5)

    assert terminal.seen[0] == "....."
    assert terminal.seen[1].startswith("Epoch 1/4")


@pytest.mark.filterwarnings("always")
def test_a_warning_stands_on_lines_of_its_own(terminal, monkeypatch):
    terminal.begin()
    monkeypatch.setattr(
        warnings, "showwarning", lambda message, *rest: sys.stderr.write(f"{message}\n")
    )
    display = bar_of(Clock())
    display.epoch_begins(0, 10)
    display.batch_done(0)
    speech.warn("beware")

    assert terminal.seen == ["beware", ""]


def test_streams_are_what_they_were_when_the_run_is_over(terminal):
    terminal.begin()
    display = bar_of(Clock())
    handler = logging.StreamHandler(sys.stderr)
    display.end()

    assert (sys.stdout, sys.stderr) == (terminal, terminal)
    handler.emit(logging.LogRecord("a", 20, "f", 1, "told later", (), None))
    assert terminal.getvalue() == "told later\n"


def test_a_stream_that_the_user_has_put_there_stays(terminal):
    terminal.begin()
    display = bar_of(Clock())
    sys.stdout = mine = Terminal()
    display.end()

    assert sys.stdout is mine
    assert sys.stderr is terminal


def test_a_stream_behind_a_bar_is_still_what_it_is(terminal):
    terminal.begin()
    display = bar_of(Clock())

    assert sys.stdout.isatty()
    assert sys.stdout.encoding == "utf-8"
    assert sys.stdout.write("ab\n") == 3
    display.end()


# Nothing that only talks ends training


@pytest.mark.parametrize("verbose", ["auto", 2])
@pytest.mark.parametrize("kind", STREAMS)
def test_a_run_goes_to_its_end_on_any_console(kind, verbose, monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, STREAMS[kind]())
    display = display_for(verbose)
    run(display, middle=lambda: speech.say("naïve"))

    assert display.progress.epoch == 1


def broken_terminal(after):
    class Broken(Terminal):
        left = after

        def write(self, text):
            type(self).left -= 1
            if self.left < 0:
                raise OSError(errno.EIO, "hung up")
            return super().write(text)

    return Broken()


@pytest.mark.parametrize("after", [0, 1, 2, 5])
def test_a_terminal_that_hangs_up_ends_nothing(after, monkeypatch):
    stream = broken_terminal(after)
    monkeypatch.setattr(sys, "stdout", stream)
    display = display_for()
    run(display, epochs=20, middle=lambda: speech.say("a message"))

    assert display.progress.epoch == 19
    assert sys.stdout is stream


def test_a_terminal_without_the_letters_gets_lines(monkeypatch):
    class Narrow(narrow("ascii")().__class__):
        def isatty(self):
            return True

    import io

    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Narrow(written, encoding="ascii", write_through=True))
    display = display_for()
    display.begin("runs/digits", 2)
    for epoch in range(2):
        display.epoch_begins(epoch, 3)
        display.batch_done(0)
        display.epoch_ends(epoch, {"précision": 0.5}, "précision 0.5 (epoch 1)")
    display.end()

    lines = screen(written.getvalue().decode("ascii"))
    assert [line.partition(";")[0] for line in lines] == [
        r"Epoch 1/2: pr\xe9cision 0.5", r"Epoch 2/2: pr\xe9cision 0.5", "",
    ]  # fmt: skip


@pytest.mark.parametrize("call", ["open", "draw", "row", "close"])
def test_a_canvas_that_breaks_is_given_up_once(call, terminal, monkeypatch):
    terminal.begin()
    display, calls = display_for(), []

    def breaks(*_):
        calls.append(call)
        raise RuntimeError("no")

    canvas = display._canvas
    monkeypatch.setattr(canvas, call, breaks)
    run(display, epochs=3)

    assert len(calls) == (2 if call == "close" else 1)
    assert terminal.seen[-2] == "runs/digits: all epochs"
    assert sys.stdout is terminal or call == "close"


def test_ctrl_c_in_a_drawing_is_ctrl_c(terminal, monkeypatch):
    terminal.begin()

    def interrupted(*_):
        raise KeyboardInterrupt

    display = display_for()
    monkeypatch.setattr(display._canvas, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(display)


def test_a_terminal_that_knows_no_sequences_gets_lines(terminal, monkeypatch):
    terminal.begin()
    monkeypatch.setenv("TERM", "dumb")
    run(display_for())

    assert "\x1b" not in terminal.getvalue()
    assert len(terminal.seen) == 4


def test_without_rich_there_are_lines(terminal, monkeypatch):
    terminal.begin()
    monkeypatch.setattr(choosing.importlib.util, "find_spec", lambda name: None)
    run(display_for())

    assert "\x1b" not in terminal.getvalue()


def test_a_broken_rich_is_none(terminal, monkeypatch):
    terminal.begin()
    monkeypatch.delitem(sys.modules, "peakhold.run.display.bar", raising=False)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    run(display_for())

    assert "\x1b" not in terminal.getvalue()


def program(tmp_path, body):
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(body))
    return [sys.executable, str(path)]


def test_what_draws_is_not_imported_before_it_is_needed(tmp_path):
    command = program(
        tmp_path,
        """
        import sys
        from peakhold.run.display import display_for
        display_for()
        found = {"rich", "IPython"} & sys.modules.keys()
        assert not found, found
        """,
    )

    assert subprocess.run(command, stdout=subprocess.PIPE, timeout=120).returncode == 0


REAL = """
    import os, signal, sys, time
    from peakhold import speech
    from peakhold.run.display import display_for
    display = display_for()
    display.begin("runs/digits", 2)
    for epoch in range(2):
        display.epoch_begins(epoch, 4)
        for i in range(4):
            display.batch_done(i)
            speech.say(f"batch {i}")
        display.epoch_ends(epoch, {"loss": 0.5})
        sys.stdin.readline()
    display.epoch_begins(2, 4)
    display.batch_done(0)
    os.kill(os.getpid(), signal.SIGKILL)
    """


def test_on_a_real_terminal_and_after_kill_9_it_is_as_before(tmp_path):
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        program(tmp_path, REAL), stdin=subprocess.PIPE, stdout=theirs, stderr=theirs
    ) as child:
        os.close(theirs)
        child.communicate(b"\n\n", timeout=120)
    written = b""
    try:
        while block := os.read(ours, 65536):
            written += block
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    lines = screen(written.decode())  # which knows no sequence that changes a terminal

    messages = [f"batch {i}" for i in range(4)]
    assert lines[:4] == lines[5:9] == messages
    assert lines[4].startswith("Epoch 1/2: loss 0.5; ")
    assert lines[9].startswith("Epoch 2/2: loss 0.5; ")
    assert lines[10].startswith("Epoch 3/2 ")
    assert len(lines) == 11


@pytest.mark.parametrize("kind", ["a pipe", "a terminal"])
def test_what_nobody_reads_any_more_ends_no_training(tmp_path, kind):
    ending = REAL.replace(
        "os.kill(os.getpid(), signal.SIGKILL)", "display.end('over'); os._exit(7)"
    )
    ours, theirs = os.pipe() if kind == "a pipe" else pty.openpty()
    with subprocess.Popen(
        program(tmp_path, ending), stdin=subprocess.PIPE, stdout=theirs, stderr=subprocess.DEVNULL
    ) as child:
        os.close(theirs)
        os.read(ours, 1)
        os.close(ours)
        child.communicate(b"\n\n", timeout=120)

    assert child.returncode == 7


# A notebook


@pytest.fixture
def notebook(monkeypatch):
    """IPython's part in it; the real one is in `test_in_a_notebook.py`."""
    shown = []

    class Handle:
        def update(self, what):
            shown.append((what._repr_html_(), repr(what)))

    def display(what, display_id):
        assert display_id is True
        shown.append((what._repr_html_(), repr(what)))
        return Handle()

    module = types.ModuleType("IPython")
    module.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    module.display = types.SimpleNamespace(display=display)
    monkeypatch.setitem(sys.modules, "IPython", module)
    return shown


def test_in_a_notebook_a_table_is_updated_in_place(notebook, capsys):
    run(display_for())
    html, text = notebook[-1]

    assert html.count("<table>") == 1
    assert html.count("<td><b>") == 4  # the first epoch is the best
    assert "<td>Epoch 2/2</td><td>0.5</td><td>0.33333</td>" in html
    assert "best val_loss 0.33333 (epoch 1); 4 checks left" in html
    assert without_times(text)[1].startswith("Epoch 2/2: loss 0.5")
    assert capsys.readouterr().out == "runs/digits: all epochs\n"


def test_a_long_table_keeps_its_end_and_its_best_row(notebook):
    display = display_for()
    display.begin("runs/<digits>", 1000)
    assert "&lt;digits&gt;" in notebook[-1][0]
    for epoch in range(1000):
        display.epoch_begins(epoch, 1)
        display.epoch_ends(epoch, {"<i>": float(epoch)}, f"m 1 (epoch {min(epoch + 1, 3)})")
    display.end()
    html, _ = notebook[-1]

    assert html.count("<tr>") == 1 + 1 + 20
    assert "<b>Epoch 3/1000</b>" in html
    assert "<td>Epoch 1000/1000</td><td>999</td>" in html
    assert "979 earlier rows are not shown" in html
    assert "<i>" not in html


def test_a_notebook_that_breaks_gets_lines(notebook, monkeypatch, capsys):
    def breaks(*_, **__):
        raise RuntimeError("no")

    monkeypatch.setattr(sys.modules["IPython"].display, "display", breaks)
    run(display_for())

    assert capsys.readouterr().out.count("Epoch ") == 2
