"""A webhook on loopback that does what a test tells it: answers, refuses, hangs, cuts, redirects."""

import contextlib
import json
import socket
import socketserver
import threading

SECRET = "T0Secret77/B1Secret88/xYzSecret99"
"""What a webhook's path ends in; no file and no line of a run may hold any part of it."""


class FakeSlack:
    """Plays `script` from the front, one action a request; then it answers 200.

    Actions: a status (200, 500), `(status, headers)`, `"hang"`, `"cut"` (closes without an answer),
    `"half"` (closes in the middle of the status line), `"drip"` (a byte now and then, for ever),
    `"garbage"`.
    """

    def __init__(self, *script):
        self.script, self.paths, self.lock = list(script), [], threading.Lock()
        self.texts = []
        """What was asked for, in order, delivered or not."""
        self.taken = []
        """What was answered with 2xx."""
        self.arrived = threading.Semaphore(0)
        self.ended = threading.Event()

    def __enter__(self):
        fake = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                with contextlib.suppress(OSError):
                    fake.serve(self.rfile, self.wfile)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address, daemon_threads, request_queue_size = True, False, 64

        self.server = Server(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def port(self):
        return self.server.server_address[1]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/services/{SECRET}"

    def serve(self, requests, answers):
        line = requests.readline().decode()
        headers = {}
        while (header := requests.readline().decode().strip()) != "":
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        body = requests.read(int(headers["content-length"]))
        method, path, _ = line.split()
        assert method == "POST"
        with self.lock:
            action = self.script.pop(0) if self.script else 200
            self.paths.append(path)
            content = json.loads(body)
            self.texts.append(content["text"] if "text" in content else content["message"])
            status, extra = action if isinstance(action, tuple) else (action, {})
            if isinstance(status, int) and 200 <= status < 300:
                self.taken.append(self.texts[-1])
        try:
            if action == "hang":
                self.ended.wait()
            elif action == "drip":
                while not self.ended.wait(0.02):
                    answers.write(b"H")
            elif action == "half":
                answers.write(b"HTTP/1.1 2")
            elif action == "garbage":
                answers.write(b"\x00\x01 no http at all\r\n\r\n")
            elif action != "cut":
                lines = [f"HTTP/1.1 {status} X", "Content-Length: 2"]
                lines += [f"{name}: {value}" for name, value in extra.items()]
                answers.write(("\r\n".join(lines) + "\r\n\r\nok").encode())
        finally:
            self.arrived.release()


def unused_port():
    """A port of this machine where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def alert_threads():
    return [t for t in threading.enumerate() if t.name.startswith("peakhold-a")]
