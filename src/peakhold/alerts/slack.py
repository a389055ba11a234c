"""Send a message to a webhook of Slack, or of anything that takes Slack's JSON.

Problem. The URL is the password, and Python's HTTP clients show it: in exceptions (`InvalidURL`,
`HTTPError.url`), in the chain behind them, in debug logs. Their time limits are for one step each:
a server that answers a byte a second holds them for hours.

Solution. The standard library's parts below `urllib.request`: we open the socket, and every step on
it gets what is left of one deadline. Whatever is raised ends here and becomes an `Outcome` of our
own words; no exception leaves this file, so none carries the URL anywhere.

Rules of this file:

1. `https`, certificates checked; `http` only to this machine, by the address that was resolved.
2. A redirect to another scheme, host or port is not followed: the message would follow.
3. A status of 2xx is a delivery, whatever happens to the rest of the answer, which is not read.
4. `HTTPS_PROXY` and `NO_PROXY` count, as they do for the rest of Python.

What the limit does not bound: the system's name resolution, which cannot be interrupted. It happens
in the outbox's thread, for which neither training nor the end of the process waits.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import ipaddress
import json
import socket
import ssl
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, final
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from peakhold._version import __version__
from peakhold.alerts.outcome import Outcome
from peakhold.alerts.secret import Secret
from peakhold.errors import InvalidArgumentError

__all__ = ["SlackSender"]

_PORTS = {"https": 443, "http": 80}
_REDIRECTS = {301, 302, 307, 308}
_N_REDIRECTS = 3
# Not our fault, and likely to pass.
_PASSING = {408, 425, 429, 500, 502, 503, 504}


@final
class SlackSender:
    """Posts `{"text": …}` to a webhook.

    Args:
        webhook: Its URL: `https`, or `http` to this machine.
        wall_clock: Seconds since 1970; for `Retry-After` with a date.

    Raises:
        InvalidArgumentError: If it is no such URL; the URL is not in the message.

    Example:
        >>> SlackSender("https://hooks.slack.com/services/T0/B0/x").where
        'hooks.slack.com'
    """

    def __init__(
        self, webhook: str | Secret, *, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self.where = ""
        self._secret = Secret(webhook)
        webhook = self._secret
        self._wall_clock = wall_clock
        self._context: ssl.SSLContext | None = None
        parts = _parse(self._secret.reveal())
        if isinstance(parts, str):
            raise InvalidArgumentError.for_argument(
                "webhook",
                self._secret,
                "the https URL of a webhook",
                hint=f"{parts} (the value is not shown: it is a password).",
            )
        self.where = parts.hostname or ""

    def __repr__(self) -> str:
        return f"SlackSender({self.where})"

    def send(self, text: str, timeout_s: float) -> Outcome:
        """Post once.

        Args:
            text: The message; `&`, `<` and `>` are escaped, so it cannot ping or link.
            timeout_s: Seconds for all of it, name resolution apart.
        """
        for plain, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(plain, escaped)
        body = json.dumps({"text": text}).encode()
        try:
            return self._post(body, _Deadline(timeout_s))
        except TimeoutError:
            return Outcome(False, f"no answer within {timeout_s:.3g} s", retry=True)
        except ssl.SSLCertVerificationError:
            return Outcome(False, "its certificate is not valid")
        except Exception as error:
            passing = isinstance(error, OSError | http.client.HTTPException)
            return Outcome(False, _words(error), retry=passing)

    def _post(self, body: bytes, deadline: _Deadline) -> Outcome:
        parts = _parse(self._secret.reveal())
        for _ in range(_N_REDIRECTS + 1):
            if isinstance(parts, str):
                return Outcome(False, f"not followed: {parts}")
            status, headers = _exchange(parts, body, deadline, self._tls)
            if status not in _REDIRECTS:
                return self._judge(status, headers)
            parts = _same_place(parts, headers.get("Location", ""))
        return Outcome(False, "too many redirects")

    def _tls(self) -> ssl.SSLContext:
        """Made once: it reads all certificates, which takes tens of milliseconds."""
        if self._context is None:
            self._context = ssl.create_default_context()
        return self._context

    def _judge(self, status: int, headers: Any) -> Outcome:
        if 200 <= status < 300:
            return Outcome(True)
        reason = f"answer {status} {http.client.responses.get(status, '')}".strip()
        if status not in _PASSING:
            return Outcome(False, reason)
        return Outcome(False, reason, retry=True, wait_s=self._retry_after(headers))

    def _retry_after(self, headers: Any) -> float | None:
        value = (headers.get("Retry-After") or "").strip()
        if value.isascii() and value.isdigit():
            return float(value[:9])
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            return max(parsedate_to_datetime(value).timestamp() - self._wall_clock(), 0.0)
        return None


def _words(error: Exception) -> str:
    """What went wrong, from the kind of the error alone: its text may hold the URL."""
    if isinstance(error, http.client.RemoteDisconnected):
        return "the connection was cut before an answer"
    if isinstance(error, http.client.HTTPException):
        return "the answer is not HTTP"
    if isinstance(error, ssl.SSLError):
        return "no secure connection"
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved"
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    return type(error).__name__


def _parse(url: str) -> SplitResult | str:
    """The parts of a URL that we post to; a sentence if we do not."""
    if not url.isascii() or not url.isprintable() or " " in url:
        return "a URL has no spaces or other such characters"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "pass a URL"
    if not host or parts.scheme not in _PORTS or port == 0:
        return "pass one that begins with https:// and a host"
    if parts.username is not None:
        return "pass it without a user name"
    if parts.scheme == "http" and not _is_loopback(host):
        return "pass one of https, which is encrypted; http is for this machine only"
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def _same_place(old: SplitResult, location: str) -> SplitResult | str:
    new = _parse(urljoin(old.geturl(), location))
    if isinstance(new, str) or not location:
        return "a redirect to nowhere"
    if (new.scheme, new.hostname, _port(new)) != (old.scheme, old.hostname, _port(old)):
        return "a redirect to another place"
    return new


def _port(parts: SplitResult) -> int:
    return parts.port or _PORTS[parts.scheme]


# One exchange over a socket of its own


@final
class _Deadline:
    """One limit for all steps."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


@final
class _Wire(io.RawIOBase):
    """What `HTTPResponse` reads from: a socket that keeps the deadline."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        super().__init__()
        self._sock, self._deadline = sock, deadline

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._deadline.left())
        return self._sock.recv_into(buffer)

    def ask(self, request: bytes, method: str) -> http.client.HTTPResponse:
        """Send a request, and read the answer's head."""
        self._sock.settimeout(self._deadline.left())
        self._sock.sendall(request)
        response = http.client.HTTPResponse(self, method=method)  # type: ignore[arg-type]
        response.begin()
        return response


def _exchange(
    parts: SplitResult, body: bytes, deadline: _Deadline, tls: Callable[[], ssl.SSLContext]
) -> tuple[int, Any]:
    """Status and headers of the answer to one POST."""
    host, port = parts.hostname or "", _port(parts)
    proxy = None if _is_loopback(host) else _proxy(host)
    place = (proxy.hostname or "", proxy.port or 80) if proxy else (host, port)
    sock = _connect(place, deadline, only_here=parts.scheme == "http")
    try:
        if proxy:
            _tunnel(sock, proxy, f"{_bracketed(host)}:{port}", deadline)
        if parts.scheme == "https":
            sock.settimeout(deadline.left())
            sock = tls().wrap_socket(sock, server_hostname=host)
        name = _bracketed(host) + (f":{port}" if parts.port else "")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n"
            f"User-Agent: peakhold/{__version__}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        response = _Wire(sock, deadline).ask(head.encode() + body, "POST")
        status, headers = response.status, response.headers
        response.close()
        return status, headers
    finally:
        sock.close()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _connect(place: tuple[str, int], deadline: _Deadline, *, only_here: bool) -> socket.socket:
    last: OSError = OSError("no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(*place, type=socket.SOCK_STREAM):
        if only_here and not _is_loopback(str(address[0])):
            continue
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(deadline.left())
            sock.connect(address)
        except OSError as error:
            sock.close()
            last = error
        else:
            return sock
    raise last


def _proxy(host: str) -> SplitResult | None:
    """The proxy that the environment names for this host."""
    from urllib.request import getproxies, proxy_bypass

    url = getproxies().get("https")
    if not url or proxy_bypass(host):
        return None
    return urlsplit(url if "://" in url else f"http://{url}")


def _tunnel(sock: socket.socket, proxy: SplitResult, place: str, deadline: _Deadline) -> None:
    head = f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n"
    if proxy.username is not None:
        pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        head += f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"
    response = _Wire(sock, deadline).ask(f"{head}\r\n".encode(), "CONNECT")
    if response.status != 200:
        raise OSError(None, f"the proxy answered {response.status}")
