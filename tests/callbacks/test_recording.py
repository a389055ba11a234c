"""Participants that decide nothing: what they write they write when a moment is recorded."""

import http.server
import threading

import pytest

from participant_rig import Stage
from peakhold import BackupAndRestore, CSVLogger, RemoteMonitor, TensorBoard
from peakhold.extend import Event
from peakhold.files.background import drain


def content(folder):
    """Every file below a folder, with what is in it."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_csv_logger_writes_a_row_when_an_epoch_is_recorded(tmp_path):
    stage = Stage(CSVLogger(tmp_path / "log.csv"))

    assert stage.epoch_end(0, loss=0.5) == ()

    assert not content(tmp_path)
    stage.record()
    assert (tmp_path / "log.csv").read_text() == "epoch,loss\n0,0.5\n"
    stage.decide(Event.TEST_END, 0, loss=0.25)
    stage.record()
    assert (tmp_path / "log.csv").read_text() == "epoch,loss\n0,0.5\n"


@pytest.mark.parametrize("event", [Event.EPOCH_END, Event.TEST_END])
def test_tensorboard_writes_points_when_a_moment_is_recorded(event, tmp_path):
    stage = Stage(TensorBoard(tmp_path, write_graph=False, update_freq="batch"))
    before = content(tmp_path)

    assert stage.decide(event, 0, loss=0.5) == ()

    assert content(tmp_path) == before
    stage.record()
    stage.run.on_train_end()
    assert content(tmp_path) != before


class Server:
    """Takes what is posted."""

    def __enter__(self):
        self.bodies = bodies = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def root(self):
        return f"http://127.0.0.1:{self.server.server_port}"


def test_remote_monitor_sends_when_an_epoch_is_recorded():
    with Server() as server:
        stage = Stage(RemoteMonitor(server.root, send_as_json=True))
        assert stage.epoch_end(0, loss=0.5) == ()
        stage.participant.settle()
        assert server.bodies == []

        stage.record()
        stage.participant.settle()

    assert len(server.bodies) == 1
    assert b"0.5" in server.bodies[0]


def test_a_backup_is_made_at_the_commit_and_not_before(tmp_path):
    stage = Stage(BackupAndRestore(tmp_path))
    beginning = content(tmp_path)
    stage.weights["w"] += 1.0

    assert stage.epoch_end(0, loss=0.5) == ()
    stage.record()

    assert content(tmp_path) == beginning
    stage.participant.commit(stage.moment, stage.logs)
    drain()
    assert content(tmp_path) != beginning
    resumed = Stage(BackupAndRestore(tmp_path))
    assert resumed.callback.initial_epoch == 1
    assert resumed.weights["w"].tolist() == [1.0, 1.0]
