"""A webhook on this machine, in place of Slack: it shows what would be sent."""

from __future__ import annotations

import http.server
import json
import threading
from typing import Self, final

__all__ = ["Receiver"]


@final
class Receiver:
    """Takes messages as Slack does, for the time of a `with`.

    Attributes:
        messages: Their texts, in order.
        url: What to give to `SlackAlert`.

    Example:
        >>> from peakhold.alerts import SlackSender
        >>> from peakhold.alerts.secret import Secret
        >>> with Receiver() as receiver:
        ...     sent = SlackSender(Secret(receiver.url)).send("epoch 3 < 4", timeout_s=5.0)
        >>> sent.delivered, receiver.messages
        (True, ['epoch 3 < 4'])
    """

    def __init__(self) -> None:
        self.messages: list[str] = []
        messages = self.messages

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                text = str(json.loads(body)["text"])
                for written, meant in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
                    text = text.replace(written, meant)  # as Slack shows it
                messages.append(text)
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/services/demo"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
