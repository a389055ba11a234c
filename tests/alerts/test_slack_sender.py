"""What one try becomes, over real sockets."""

import datetime
import email.utils
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest

from fake_slack import SECRET, FakeSlack, unused_port
from peakhold.alerts import Secret, SlackSender
from peakhold.alerts.outcome import Outcome
from peakhold.errors import InvalidArgumentError

PARTS = [SECRET, *SECRET.split("/")]


def hides(text):
    return not any(part in text for part in PARTS)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def one_try(*script, timeout_s=5.0, text="hello"):
    with FakeSlack(*script) as slack:
        return SlackSender(slack.url).send(text, timeout_s), slack


def test_the_message_is_json_with_three_signs_escaped():
    outcome, slack = one_try(text='<!channel> a & b "ü"\nend')

    assert outcome == Outcome(True)
    assert slack.texts == ['&lt;!channel&gt; a &amp; b "ü"\nend']
    assert slack.paths == [f"/services/{SECRET}"]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (204, Outcome(True)),
        (400, Outcome(False, "answer 400 Bad Request")),
        (404, Outcome(False, "answer 404 Not Found")),
        (500, Outcome(False, "answer 500 Internal Server Error", retry=True)),
        (
            (429, {"Retry-After": "7"}),
            Outcome(False, "answer 429 Too Many Requests", retry=True, wait_s=7.0),
        ),
        (
            (503, {"retry-after": " 30 "}),
            Outcome(False, "answer 503 Service Unavailable", retry=True, wait_s=30.0),
        ),
        ((503, {"Retry-After": "soon"}), Outcome(False, "answer 503 Service Unavailable", True)),
        ((404, {"Retry-After": "7"}), Outcome(False, "answer 404 Not Found")),
        ("cut", Outcome(False, "the connection was cut before an answer", retry=True)),
        ("half", Outcome(False, "the answer is not HTTP", retry=True)),
        ("garbage", Outcome(False, "the answer is not HTTP", retry=True)),
    ],
    ids=str,
)
def test_what_an_answer_means(action, expected):
    assert one_try(action)[0] == expected


def test_retry_after_may_be_a_date():
    now = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
    later = email.utils.format_datetime(now + datetime.timedelta(seconds=90), usegmt=True)
    with FakeSlack((429, {"Retry-After": later})) as slack:
        outcome = SlackSender(slack.url, wall_clock=now.timestamp).send("x", 5.0)

    assert outcome.wait_s == 90.0


def test_nobody_listens():
    url = f"http://127.0.0.1:{unused_port()}/{SECRET}"

    assert SlackSender(url).send("x", 5.0) == Outcome(False, "Connection refused", retry=True)


@pytest.mark.parametrize("action", ["hang", "drip"])
def test_a_try_ends_in_time_whatever_the_server_does(action):
    """`drip` sends a byte often enough for every limit that counts from the last one."""
    began = time.monotonic()
    outcome, _ = one_try(action, timeout_s=0.3)

    assert outcome == Outcome(False, "no answer within 0.3 s", retry=True)
    assert time.monotonic() - began >= 0.3


def test_a_redirect_on_the_same_host_is_followed_with_the_message():
    with FakeSlack((307, {"Location": "/else/where?x=1"})) as slack:
        assert SlackSender(slack.url).send("x", 5.0).delivered

    assert slack.paths == [f"/services/{SECRET}", "/else/where?x=1"]
    assert slack.taken == ["x"]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_to_another_host_is_not_followed(status):
    with FakeSlack() as other, FakeSlack() as slack:
        slack.script.append((status, {"Location": other.url}))
        outcome = SlackSender(slack.url).send("x", 5.0)

    assert outcome == Outcome(False, "not followed: a redirect to another place")
    assert other.texts == []


@pytest.mark.parametrize(
    "location", ["", "https://127.0.0.1/x", "http://localhost/x", "ftp://x", "http://[", "//evil"]
)
def test_a_redirect_to_anything_else_is_not_followed(location):
    outcome, slack = one_try((302, {"Location": location}))

    assert not outcome.delivered
    assert not outcome.retry
    assert len(slack.texts) == 1


def test_redirects_in_a_ring_end():
    outcome, slack = one_try(*[(308, {"Location": "/again"})] * 9)

    assert outcome == Outcome(False, "too many redirects")
    assert len(slack.texts) == 4


def test_303_is_no_delivery():
    outcome, _ = one_try((303, {"Location": "/thanks"}))

    assert outcome == Outcome(False, "answer 303 See Other")


@pytest.mark.parametrize(
    "url",
    [
        f"http://hooks.slack.com/{SECRET}", f"ftp://127.0.0.1/{SECRET}", SECRET, f"https:///{SECRET}",
        f"https://user@hooks.slack.com/{SECRET}", f"https://hooks.slack.com:port/{SECRET}",
        f"https://[::1/{SECRET}", f"https://hooks.slack.com/{SECRET} x",
        f"https://hooks.slack.com/{SECRET}\r\nX: y", f"https://hööks.com/{SECRET}",
        f"http://127.0.0.1.example.com/{SECRET}", f"https://x:0/{SECRET}", f"file:///{SECRET}",
        f"http://10.0.0.1/{SECRET}", f"http://localhost.example.com/{SECRET}",
    ],
)  # fmt: skip
def test_what_is_no_webhook_is_refused_and_not_shown(url):
    with pytest.raises(InvalidArgumentError) as caught:
        SlackSender(url)
    error = caught.value

    assert str(error).startswith("expected the https URL of a webhook, got webhook=***.\nHint: ")
    assert hides(f"{error} {error!r} {error.args} {vars(error)}")
    assert error.__context__ is None
    assert error.__cause__ is None


@pytest.mark.parametrize(
    "url",
    ["https://hooks.slack.com/x", "https://chat.intern:8443/hooks/x?a=b", "http://[::1]:80/x"],
)
def test_webhooks(url):
    assert SlackSender(url).where in {"hooks.slack.com", "chat.intern", "::1"}


def test_http_to_a_name_that_is_not_this_machine_is_not_sent(monkeypatch):
    """`localhost` may be anything in a broken resolver."""
    address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: [address])

    assert not SlackSender("http://localhost/x").send("x", 1.0).delivered


def test_a_name_that_nobody_knows(monkeypatch):
    def unknown(*arguments, **named):
        raise socket.gaierror(-2, f"no {SECRET}")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    outcome = SlackSender("https://hooks.example.invalid/x").send("x", 1.0)

    assert outcome == Outcome(False, "its name cannot be resolved", retry=True)


# TLS, and a proxy before it


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key,
         "-out", cert, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return str(cert), str(key)


@pytest.fixture
def tls_slack(certificate):
    with FakeSlack() as slack:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        slack.server.socket = context.wrap_socket(slack.server.socket, server_side=True)
        slack.server.handle_error = lambda *arguments: None
        yield slack


def test_https_with_a_certificate_that_is_trusted(tls_slack, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
    outcome = SlackSender(f"https://localhost:{tls_slack.port}/{SECRET}").send("x", 5.0)

    assert outcome == Outcome(True)
    assert tls_slack.taken == ["x"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_https_with_a_certificate_that_is_not(tls_slack, certificate, monkeypatch, host):
    if host == "127.0.0.1":  # trusted, for another name
        monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
    outcome = SlackSender(f"https://{host}:{tls_slack.port}/{SECRET}").send("x", 5.0)

    assert outcome == Outcome(False, "its certificate is not valid")
    assert tls_slack.texts == []


def test_https_to_a_server_that_speaks_http():
    with FakeSlack() as slack:
        url = f"https://127.0.0.1:{slack.port}/{SECRET}"
        # The fake waits for a line end that TLS never sends.
        outcome = SlackSender(url).send("x", 0.3)
        slack.ended.set()

    assert not outcome.delivered
    assert outcome.retry


class Proxy:
    """Takes one CONNECT, and passes bytes between the two sides."""

    def __init__(self, answer=b"HTTP/1.1 200 Connection established\r\n\r\n"):
        self.answer, self.head = answer, b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.thread.join()
        self.listener.close()

    def run(self):
        client, _ = self.listener.accept()
        with client:
            while b"\r\n\r\n" not in self.head:
                self.head += client.recv(1)
            client.sendall(self.answer)
            if b" 200 " not in self.answer:
                return
            place = self.head.split()[1].decode()
            with socket.create_connection(("127.0.0.1", int(place.rpartition(":")[2]))) as server:
                pump = threading.Thread(target=self.pump, args=(server, client))
                pump.start()
                self.pump(client, server)
                pump.join()

    @staticmethod
    def pump(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def test_the_environments_proxy_carries_it(tls_slack, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
    monkeypatch.setattr("peakhold.alerts.slack._is_loopback", lambda host: False)
    with Proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:s%20x@127.0.0.1:{proxy.port}")
        outcome = SlackSender(f"https://localhost:{tls_slack.port}/{SECRET}").send("x", 5.0)

    assert outcome == Outcome(True)
    assert proxy.head.startswith(f"CONNECT localhost:{tls_slack.port} HTTP/1.1".encode())
    assert b"Proxy-Authorization: Basic bWU6cyB4\r\n" in proxy.head
    assert hides(proxy.head.decode()), "the proxy sees no path"


def test_a_proxy_that_refuses(monkeypatch):
    with Proxy(b"HTTP/1.1 407 Who are you\r\n\r\n") as proxy:
        monkeypatch.setenv("https_proxy", f"127.0.0.1:{proxy.port}")
        outcome = SlackSender("https://hooks.example.com/x").send("x", 5.0)

    assert outcome == Outcome(False, "the proxy answered 407", retry=True)


# The secret


def test_a_secret_shows_nothing():
    secret = Secret(f"https://hooks.slack.com/services/{SECRET}")
    sender = SlackSender(secret)

    assert hides(f"{secret} {secret!r} {secret!s} {sender!r} {vars(sender)} {[secret]}")
    assert hides(secret.mask(f"POST https://hooks.slack.com/services/{SECRET}?x failed"))
    assert json.dumps(str(secret)) == '"***"'


WORDS = {  # addresses of plain words, and what may be shown of them
    "mailto://anna:hunterpass@example.com?to=boss@firm.org&format=text": {"mailto", "to", "format", "text"},
    "https://hooks.example.com/services/plain/words/only": {"https", "hooks.example.com"},
    "https://hooks.example.com/hook?token=sesame&user=ab": {"https", "hooks.example.com", "token", "user"},
    "tgram://bottoken/chat": {"tgram"},
    "https://us%65r:p%40ss@hooks.example.com/x": {"https", "hooks.example.com"},
}  # fmt: skip


@pytest.mark.parametrize("address", WORDS)
def test_a_secret_of_plain_words_is_masked_in_each_of_its_forms(address):
    from base64 import b64encode
    from urllib.parse import quote, unquote

    shown, secret = WORDS[address], Secret(address)
    user = address.partition("://")[2].partition("@")[0] if "@" in address.split("?")[0] else ""
    forms = [address, unquote(address), address.upper(), repr(address), json.dumps(address)]
    forms += [quote(unquote(address), safe="")]
    forms += [b64encode(one.encode()).decode() for one in (user, unquote(user)) if one]
    forms += [part for part in re.split(r"[/?#&=:@,;]+", address) if part]
    forms += [unquote(part) for part in forms]

    for form in forms:
        masked = secret.mask(f"the request to {form} has failed")
        left = masked.removeprefix("the request to ").removesuffix(" has failed")
        words = set(re.findall(r"[\w.]+", left.lower().replace("%3a", " ").replace("%2f", " ")))
        assert words <= shown | {""}, (form, masked)


def test_words_beside_a_secret_stay():
    secret = Secret("mailto://me:pass@example.com?format=text&verify=no")

    assert secret.mask("no text: passage to the memory of me") == (
        "no text: passage to the memory of ***"
    )


def test_an_empty_secret_masks_nothing():
    assert Secret().mask("all of it") == "all of it"
    assert not Secret.from_environment("PEAKHOLD_NO_SUCH_VARIABLE")
    assert os.environ.get("PEAKHOLD_NO_SUCH_VARIABLE") is None
