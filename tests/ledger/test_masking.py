"""A secret gets into no file; and what is none stays readable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peakhold.ledger import Ledger
from peakhold.ledger.lines import to_line
from peakhold.ledger.masking import Masking

ENVIRONMENT = {
    "WANDB_API_KEY": "0123456789abcdef",
    "HF_TOKEN": "hf_abcdefghijklmnopqrst",
    "PEAKHOLD_SLACK_WEBHOOK": "https://hooks.slack.com/services/T01/B02/x9YzAbCd",
    "DB_PASSWORD": "correct horse battery",
    "PATH": "/usr/bin:/bin",
    "PWD": "projects/of/mine",
    "GOOGLE_APPLICATION_CREDENTIALS": "/keys/mine.json",
    "USE_TOKEN": "1",
}


@pytest.fixture
def masking():
    return Masking.of_this_process(ENVIRONMENT)


@pytest.mark.parametrize(
    ("words", "masked"),
    [
        (["--api-key", "abc"], ["--api-key", "***"]),
        (["--api_key=abc"], ["--api_key=***"]),
        (["WANDB_TOKEN=abc"], ["WANDB_TOKEN=***"]),
        (["trainer.hub_token=abc"], ["trainer.hub_token=***"]),
        (["--password"], ["--password"]),
        (["--password", "--verbose"], ["--password", "--verbose"]),
        (["--log", "0123456789abcdef"], ["--log", "***"]),
        (["--log=x-0123456789abcdef-y"], ["--log=x-***-y"]),
        (["tgram://123:abc/456"], ["tgram://***"]),
        (["https://discord.com/api/webhooks/1/abc"], ["https://discord.com/***"]),
        (["https://me:pw@example.com/data.tar"], ["https://***@example.com/data.tar"]),
        (["https://example.com/d.tar?X-Sig=abc"], ["https://example.com/d.tar?***"]),
        (["hf_zyxwvutsrqponmlkji"], ["***"]),
        (["AKIAABCDEFGHIJKLMNOP"], ["***"]),
        (["eyJhbGciOiJI.eyJzdWIiOiIx.c2ln"], ["***"]),
        # Nothing of these is a secret.
        (["--lr=0.1", "--tokens", "512"], ["--lr=0.1", "--tokens", "512"]),
        (["--max-tokens=512", "--key-dim", "64"], ["--max-tokens=512", "--key-dim", "64"]),
        (["--data", "gs://bucket/set", "s3://b/x"], ["--data", "gs://bucket/set", "s3://b/x"]),
        (["https://example.com/data.tar"], ["https://example.com/data.tar"]),
        (["projects/of/mine", "/usr/bin:/bin"], ["projects/of/mine", "/usr/bin:/bin"]),
        (["--use", "1"], ["--use", "1"]),
    ],
)  # fmt: skip
def test_a_command_line(masking, words, masked):
    assert masking.of_command(words) == masked


def test_a_tree_keeps_its_form_and_its_numbers(masking):
    tree = {"a": [1, 2.5, None, True], "token": "abc", "key": 3, "text": "correct horse battery"}

    assert masking.of_tree(tree) == {
        "a": [1, 2.5, None, True], "token": "***", "key": 3, "text": "***",
    }  # fmt: skip


@given(st.text(max_size=30), st.text(max_size=30))
def test_whatever_stands_around_it_a_secret_is_gone_and_was_seen(before, after):
    masking = Masking.of_this_process(ENVIRONMENT)
    for secret in ("0123456789abcdef", "correct horse battery", "/T01/B02/x9YzAbCd"):
        text = before + secret + after

        assert secret[-8:] not in masking.of_text(text)
        assert masking.may_concern(to_line({"kind": "x", "text": text}))


def test_no_event_has_a_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", ENVIRONMENT["WANDB_API_KEY"])
    ledger = Ledger(tmp_path / "events.jsonl", None)
    ledger.append({"kind": "end", "reason": "login with 0123456789abcdef at ftp://me:pw1@h failed"})
    ledger.append({"kind": "note", "by": {"0123": [f"x {ENVIRONMENT['WANDB_API_KEY']}"]}})
    ledger.close()

    text = (tmp_path / "events.jsonl").read_text()
    assert "0123456789abcdef" not in text and "pw1" not in text
    assert "login with *** at ftp://***@h failed" in text


def test_most_lines_are_not_looked_at_closely(masking):
    line = b'{"kind":"moment","event":"on_epoch_end","metrics":{"loss":0.5},"rates":{"":0.1}}'

    assert not masking.may_concern(line)
