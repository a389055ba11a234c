"""What a run is: written once, and never a secret."""

import errno
import json
import os
import subprocess
import sys
import time

import pytest

from peakhold.errors import InvalidArgumentError, SaveError
from peakhold.ledger import read_run_file, write_run_file
from peakhold.ledger.run_file import git_state
from peakhold.testing import FailingDisk


def test_what_is_written_is_read(tmp_path):
    written = write_run_file(
        tmp_path, run_id="a1", settings={"patience": 8, "limit": float("inf")}, monitor="val_loss"
    )

    read = read_run_file(tmp_path)

    assert read == written
    assert read["id"] == "a1" and read["format"] == 1 and read["monitor"] == "val_loss"
    assert read["settings"] == {"patience": 8, "limit": float("inf")}
    assert read["versions"]["numpy"] and read["versions"]["peakhold"] and read["host"]
    assert json.loads((tmp_path / "run.json").read_bytes())["settings"]["patience"] == 8


SECRETS = ["hunter2secret", "s3cr3t-of-the-env", "T01/B02/x9YzAb"]


def test_no_secret_is_in_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPERIMENT_TOKEN", SECRETS[1])
    monkeypatch.setenv("PEAKHOLD_SLACK_WEBHOOK", f"https://hooks.slack.com/services/{SECRETS[2]}")

    write_run_file(
        tmp_path,
        run_id="a1",
        command=["python", "train.py", "--password", SECRETS[0], f"--note={SECRETS[1]}",
                 f"--hook=https://hooks.slack.com/services/{SECRETS[2]}", "--lr=0.1"],
        settings={"api_key": SECRETS[0], "nested": [{"url": f"https://me:{SECRETS[0]}@h/x"}],
                  "note": SECRETS[1]},
    )  # fmt: skip

    text = (tmp_path / "run.json").read_text()
    assert [secret for secret in SECRETS if secret in text] == []
    assert "x9YzAb" not in text and "--lr=0.1" in text


def test_settings_that_are_not_plain_are_refused(tmp_path):
    with pytest.raises(InvalidArgumentError, match="expected dicts"):
        write_run_file(tmp_path, run_id="a1", settings={"model": object()})
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_what_was_there(tmp_path):
    write_run_file(tmp_path, run_id="first")
    with pytest.raises(SaveError, match="expected a file that says what the run is"):
        write_run_file(
            tmp_path, run_id="second", disk=FailingDisk(1, errno.ENOSPC, calls=["write"])
        )

    assert read_run_file(tmp_path)["id"] == "first"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"kind":"run"}', b'{"kind":"run","id":3}', b"\0" * 3_000_000]
)
def test_a_damaged_file_is_none(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)

    assert read_run_file(tmp_path) is None


# git


def git(folder, *words):
    identity = ["-c", "user.name=n", "-c", "user.email=e@e"]
    subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "train.py").write_text("print()")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_the_commit_is_told_and_whether_files_were_changed(repository):
    clean = git_state(str(repository))
    (repository / "notes.txt").write_text("not known to git")
    assert git_state(str(repository)) == clean
    (repository / "train.py").write_text("print(1)")

    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    assert git_state(str(repository)) == {**clean, "dirty": True}


def test_where_there_is_no_repository_or_no_git_nothing_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(str(tmp_path)) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state() is None


@pytest.mark.skipif(os.name != "posix", reason="a script takes git's place")
def test_a_git_that_hangs_holds_nobody_up(repository, monkeypatch, tmp_path):
    """Its answer comes at once, and then it hangs at the second question."""
    script = tmp_path / "bin" / "git"
    script.parent.mkdir()
    script.write_text(
        f"#!{sys.executable}\nimport sys, time\n"
        "print('0' * 40) if 'rev-parse' in sys.argv else time.sleep(600)\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent))
    began = time.monotonic()

    state = git_state(str(repository), timeout_s=2.0)

    assert time.monotonic() - began < 60
    assert state == {"commit": "0" * 40, "dirty": None}
