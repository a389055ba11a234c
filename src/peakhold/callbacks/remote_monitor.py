"""Send the metrics of each epoch to a server."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, final

from peakhold._core.arguments import check_number, check_text
from peakhold._core.decisions import Decision
from peakhold._core.moments import Moment
from peakhold._core.observation import Event
from peakhold.alerts.secret import Secret
from peakhold.errors import InvalidArgumentError, RemoteWarning
from peakhold.host.contract import to_number
from peakhold.runtime.participant import Needs, Participant
from peakhold.runtime.participating import Participating, Setting
from peakhold.runtime.run_view import RunView
from peakhold.trees import fold, is_named, map_tree

if TYPE_CHECKING:
    import urllib.request

    from peakhold.alerts.remote_sender import RequestSender

__all__ = ["RemoteMonitor"]

_PATH: Final = "/publish/epoch/end/"


class RemoteMonitor(Participating):
    """Send the metrics of each epoch to a server, by HTTP POST.

    In `fit`, and in loops that a `CallbackList` drives, a thread sends them, in order; an epoch
    costs no more than putting its metrics into a queue. At most 100 epochs wait; then the oldest is
    dropped. The end of training waits at most `timeout` seconds for the last of them. A server that
    cannot be reached, or refuses, is told of once for each run, as a warning: training goes on.
    Called by hand, `on_epoch_end` sends at once.

    It needs no package: `requests` is not used. A proxy is taken from the environment
    (`http_proxy`), a name and password from the URL. Nothing shows `root`, `path` and `headers`;
    but a pickle holds them, or it could not send.

    Args:
        root: URL of the server, `http` or `https`. Defaults to `"http://localhost:9000"`.
        path: Path on it. Defaults to `"/publish/epoch/end/"`.
        field: Name of the form's field that holds the JSON; unused if `send_as_json`. Defaults to
            `"data"`.
        headers: HTTP headers to send. Defaults to `None`.
        send_as_json: Whether the body is JSON (`application/json`) instead of a form. NaN and
            infinity, which JSON does not have, are `null` there. Defaults to `False`.
        timeout: Seconds to wait for each answer of the server, and for all that is missing at the
            end of training (one second more if it hangs). Defaults to `5`.

    Raises:
        InvalidArgumentError: For a `root` that is no URL, headers that are no dict, `timeout=0`.

    Example:
        >>> monitor = RemoteMonitor("https://metrics.example", path="/epochs", send_as_json=True)
        >>> monitor.root + monitor.path
        'https://metrics.example/epochs'

    Source:
        `keras.callbacks.RemoteMonitor` of Keras 3.15; K-T5.
    """

    _peakhold_unshown = ("root", "path", "headers")  # a password, a token

    root = Setting[str]("URL of the server.")
    path = Setting[str]("Path on it.")
    field = Setting[str]("Name of the form's field.")
    headers = Setting["Mapping[str, str] | None"]("HTTP headers to send.")
    send_as_json = Setting[bool]("Whether the body is JSON.")
    timeout = Setting[float]("Seconds to wait for each answer, and at the end.")

    def __init__(
        self,
        root: str = "http://localhost:9000",
        path: str = _PATH,
        field: str = "data",
        headers: Mapping[str, str] | None = None,
        send_as_json: bool = False,
        *,
        timeout: float = 5,
    ) -> None:
        address: Any = root
        address = Secret(address) if isinstance(address, str) else address
        where, sent = _Hidden(path), _Hidden(headers)
        root, path, headers = "", "", None  # no frame of ours shows them when something is raised
        _check_root(address)
        field = check_text("field", field, "a name", hint="pass field='data'.")
        if sent.value is not None and not isinstance(sent.value, Mapping):
            raise InvalidArgumentError.for_argument(
                "headers", sent, "a dict of HTTP headers", hint="pass {'X-Run': 'first'}."
            )
        timeout = check_number(
            "timeout", timeout, "seconds, at least 0.001", at_least=0.001, hint="pass timeout=5."
        )
        sending = _Sending(field, bool(send_as_json), timeout)
        sending.hidden = {"root": _Hidden(address.reveal()), "path": where, "headers": sent}
        super().__init__(sending)


@final
class _Hidden:
    """A value that is not shown."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return repr(Secret())


def _hidden(name: str) -> Any:
    """An attribute that is kept where no print shows it."""

    def show(sending: _Sending) -> Any:
        return sending.hidden[name].value

    def take(sending: _Sending, value: Any) -> None:
        sending.hidden[name] = _Hidden(value)

    return property(show, take)


class _Sending(Participant):
    """Sends what an epoch's end has logged; see `RemoteMonitor` for the arguments."""

    records_only = True
    reads_steps = False

    def __init__(self, field: str, send_as_json: bool, timeout: float) -> None:
        self.hidden: dict[str, _Hidden] = {}
        """`root`, `path` and `headers`, which no print of this object shows; a pickle holds them,
        as it must to send anything."""
        self.field, self.send_as_json, self.timeout = field, send_as_json, timeout
        self.sender: RequestSender | None = None
        self._told = False

    root, path, headers = _hidden("root"), _hidden("path"), _hidden("headers")

    def __getstate__(self) -> dict[str, Any]:
        # What is set on a copy must not be set on the original.
        return {**super().__getstate__(), "hidden": dict(self.hidden), "sender": None}

    def needs(self, run: RunView) -> Needs:
        """Begin anew: a failure is told once for each run."""
        self.sender, self._told = None, False
        return Needs()

    def record(self, moment: Moment, logs: dict[str, Any], decided: Sequence[Decision]) -> None:
        """Send an epoch's metrics, or put them into the queue."""
        if moment.event is not Event.EPOCH_END:
            return
        from peakhold.alerts.remote_sender import RequestSender, post  # loads sockets and TLS

        request = self._request(moment.at.epoch, logs)
        if not self.run.driven:
            self._tell_failure(post(request, self.timeout, []))
            return
        if self.sender is None:
            self.sender = RequestSender(self.timeout)
        self.sender.push(request)
        self._tell_failure(self.sender.failure)

    def settle(self) -> None:
        """Wait for the last of them."""
        sender, self.sender = self.sender, None
        if sender is not None:
            self._tell_failure(sender.close())

    def _tell_failure(self, reason: str | None) -> None:
        if reason is not None and not self._told:
            self._told = True
            self.run.warn(
                f"Could not reach RemoteMonitor root server at {_server_of(self.root)}: "
                f"{self._masked(reason)}. Training goes on.",
                RemoteWarning,
            )

    def _masked(self, text: str) -> str:
        """A text without what nobody should read; in a frame of its own, which raises nothing."""
        secrets = [self.root, *map(str, (self.headers or {}).values())]
        for secret in secrets if self.path == _PATH else [*secrets, self.path]:
            text = Secret(secret).mask(text)
        return text

    # What is sent

    def _request(self, epoch: int, logs: Mapping[str, Any]) -> urllib.request.Request:
        import urllib.parse
        import urllib.request

        event = {"epoch": epoch, **fold(dict(logs), _plain, _joined)}
        if self.send_as_json:
            strict = map_tree(event, _strict)
            body, kind = json.dumps(strict).encode(), "application/json"
        else:
            text = json.dumps(event)
            body = urllib.parse.urlencode({self.field: text}).encode()
            kind = "application/x-www-form-urlencoded"
        url, authorization = _split_password(self.root + self.path)
        headers = {"Content-Type": kind, **authorization, **(self.headers or {})}
        request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310 - http only
        request.method = "POST"
        return request


def _plain(value: Any, path: str) -> Any:  # noqa: ARG001 - as `fold` calls it
    """A log value as JSON has it."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    shape = tuple(getattr(value, "shape", ()))
    if hasattr(value, "item") and math.prod(shape) == 1:
        return value.item()  # an int stays an int
    if hasattr(value, "tolist"):
        return value.tolist()
    number = to_number(value)
    return str(value) if number is None else number


def _joined(container: Any, keys: Sequence[Any], children: list[Any], path: str) -> Any:  # noqa: ARG001 - as `fold` calls it
    """A container as JSON has it."""
    return dict(zip(map(str, keys), children, strict=True)) if is_named(container) else children


def _strict(value: Any) -> Any:
    """The same without NaN and infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_root(root: Any) -> None:
    if not isinstance(root, Secret) or not _is_of_the_web(root):
        raise InvalidArgumentError.for_argument(
            "root",
            root or "",
            "a URL of http or https",
            hint="pass root='http://localhost:9000' (what is passed is not shown: it may hold a "
            "password).",
        )


def _is_of_the_web(root: Secret) -> bool:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(root.reveal())
        is_numbered = parts.port is None or parts.port > 0
    except ValueError:  # a part of a password, where the port has its place
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and is_numbered


def _server_of(url: str) -> str:
    """Scheme, host and port: what may be shown."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _split_password(url: str) -> tuple[str, dict[str, str]]:
    """The URL without name and password, and the header that holds them."""
    from base64 import b64encode
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, {}
    token = b64encode(unquote(user).encode()).decode()
    return parts._replace(netloc=host).geturl(), {"Authorization": f"Basic {token}"}
