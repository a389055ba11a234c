"""What is copied from `deploy/` is right by its own rules: linted, and by its schema."""

import re
import shutil
import subprocess
import sys

import pytest

import containers

DEPLOY = containers.ROOT / "deploy"
DOCKERFILES = ["Dockerfile", "Dockerfile.gpu"]


def ran(program, *arguments):
    """A program of the suite's environment, or of the machine's: its exit code and its words."""
    path = shutil.which(program, path=f"{sys.prefix}/bin") or shutil.which(program)
    done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfiles(name, tmp_path):
    assert ran("hadolint", DEPLOY / name) == (0, "")

    bad = (DEPLOY / name).read_text().replace("tini=0.19.*", "tini")
    (tmp_path / name).write_text(bad)
    assert "DL3008" in ran("hadolint", tmp_path / name)[1]


def test_compose(tmp_path):
    schema = ["--builtin-schema", "vendor.compose-spec"]
    assert ran("check-jsonschema", *schema, DEPLOY / "compose.yaml")[0] == 0

    bad = (DEPLOY / "compose.yaml").read_text().replace("stop_grace_period", "stop_grace")
    (tmp_path / "compose.yaml").write_text(bad)
    assert "stop_grace" in ran("check-jsonschema", *schema, tmp_path / "compose.yaml")[1]


def test_kubernetes(tmp_path):
    code, said = ran("kubernetes-validate", "--strict", DEPLOY / "kubernetes.yaml")
    assert code == 0 and said.count("passed") == 2, said

    bad = (DEPLOY / "kubernetes.yaml").read_text().replace("GracePeriodSeconds: 120", "Grace: 120")
    (tmp_path / "bad.yaml").write_text(bad)
    assert ran("kubernetes-validate", "--strict", tmp_path / "bad.yaml")[0] != 0


@pytest.mark.parametrize(("shell", "name"), [("bash", "slurm.sh"), ("sh", "lock.sh")])
def test_shell_scripts(shell, name):
    assert ran(shell, "-n", DEPLOY / name) == (0, "")


@pytest.mark.parametrize("name", ["build", "torch", "jax", "tensorflow"])
def test_every_pin_has_hashes_and_is_what_the_suite_is_run_with(name):
    text = (DEPLOY / "requirements" / f"{name}.txt").read_text()
    pins = dict(re.findall(r"^([\w-]+)==([\w.]+)", text, re.MULTILINE))
    assert text.count("==") - text.count("python_full_version ==") >= len(pins) > 3
    for block in re.split(r"^(?=[\w-]+==)", text, flags=re.MULTILINE)[1:]:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}$", block.strip()), block

    suite = (containers.ROOT / "requirements" / "pins.txt").read_text()
    known = dict(re.findall(r"^([\w-]+)==([\w.]+)$", suite, re.MULTILINE))
    assert {one: pins[one] for one in pins if one in known} == {
        one: known[one] for one in pins if one in known
    }


@pytest.mark.parametrize("name", DOCKERFILES)
def test_every_image_stops_and_is_looked_at_alike(name):
    one, other = (
        containers.Dockerfile((DEPLOY / each).read_text()) for each in (name, "Dockerfile")
    )

    assert one.entry == other.entry and one.health == other.health
    assert one.volumes == other.volumes == ["/runs"]
    assert one.user == other.user == "10001:10001"
