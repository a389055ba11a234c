"""Requests in order, from a thread that nobody has to wait for.

Problem. A request in the training thread holds training up for as long as the server likes; without
a time limit, forever (K-T5). A thread that is left behind outlives `fit`, with its socket.

Solution. Events go into a bounded queue. A thread lives while there are events in it: none is left
after an exception, and none is inherited by the next run. The end of the run waits for it at most
`timeout` seconds, then drops what has not been sent and shuts the socket that the thread waits on,
for which it takes another second at most.

What still fails. Looking up a name and connecting cannot be cut short: the thread (a daemon) ends
then when the system gives up, or after `timeout`. Outside a driven run there is nobody to wait
later: there the hook posts at once.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import urllib.error
import urllib.request
from collections import deque
from typing import Any, final

__all__ = ["RequestSender", "post"]

MAX_WAITING = 100
HANG_UP_TRIES = 20


@final
class RequestSender:
    """Sends requests in order, in a thread that lives while there are any."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._waiting: deque[urllib.request.Request] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._connections: list[http.client.HTTPConnection] = []
        self.failure: str | None = None
        """Why the first request that failed did; None if none has."""

    def push(self, request: urllib.request.Request) -> None:
        """Send it after all that came before; returns at once."""
        with self._lock:
            if len(self._waiting) == MAX_WAITING:
                self._waiting.popleft()
                self._note(f"the server is too slow; of {MAX_WAITING} epochs, the oldest is lost")
            self._waiting.append(request)
            # A thread does not come along through a fork.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._send_all, name="peakhold-remote-monitor", daemon=True
                )
                self._thread.start()

    def close(self) -> str | None:
        """Wait for what is on its way, at most `timeout`; then drop it. Returns the failure."""
        thread = self._thread
        if thread is not None:
            thread.join(self._timeout)
        with self._lock:
            lost = len(self._waiting) + (thread is not None and thread.is_alive())
            self._waiting.clear()
            if lost:
                self._note(f"no answer within {self._timeout:g} s; {lost} of the epochs are lost")
        for _ in range(HANG_UP_TRIES):  # the first may come before the socket is there
            if thread is None or not thread.is_alive():
                break
            self._hang_up()
            thread.join(0.05)
        return self.failure

    def _send_all(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                request = self._waiting.popleft()
            failure = post(request, self._timeout, self._connections)
            if failure is not None:
                with self._lock:
                    self._note(failure)

    def _note(self, failure: str) -> None:
        if self.failure is None:
            self.failure = failure

    def _hang_up(self) -> None:
        """Shut the sockets that the thread may be waiting on: that wakes it."""
        for connection in list(self._connections):
            sock = connection.sock
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)


def post(
    request: urllib.request.Request, timeout: float, connections: list[http.client.HTTPConnection]
) -> str | None:
    """Send one request; returns why it failed, or None. Never raises."""
    try:
        opener = urllib.request.build_opener(_Http(connections), _Https(connections))
        opener.open(request, timeout=timeout).close()
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answered {error.code} {error.reason}".rstrip()
    except urllib.error.URLError as error:
        return str(error.reason) or type(error.reason).__name__
    except Exception as error:  # a malformed answer, a broken proxy: whatever it is, we train on
        return str(error) or type(error).__name__
    finally:
        connections.clear()
    return None


def _remembering(kind: Any, connections: list[http.client.HTTPConnection]) -> Any:
    """A connection's class that notes what it makes, so that another thread can hang up."""

    def connect(*args: Any, **kwargs: Any) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection = kind(*args, **kwargs)
        connections.append(connection)
        return connection

    return connect


class _Http(urllib.request.HTTPHandler):
    def __init__(self, connections: list[http.client.HTTPConnection]) -> None:
        super().__init__()
        self._connections = connections

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_remembering(http.client.HTTPConnection, self._connections), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, connections: list[http.client.HTTPConnection]) -> None:
        super().__init__()
        self._connections = connections

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        kind = _remembering(http.client.HTTPSConnection, self._connections)
        return self.do_open(kind, req, context=self._context)  # type: ignore[attr-defined]
