"""The image of `deploy/Dockerfile`, made once, and what its example leaves without a container."""

import os
import subprocess
import sys

import pytest

import containers
from deploy.example_runs import ARGUMENTS, TRAIN, left


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    return containers.Image(
        containers.ROOT / "deploy" / "Dockerfile", containers.ROOT, tmp_path_factory.mktemp("layer")
    )


@pytest.fixture
def runs(tmp_path):
    """What is mounted on /runs."""
    path = tmp_path / "runs"
    path.mkdir()
    return path


@pytest.fixture(scope="session")
def outside(tmp_path_factory):
    """What an unbroken run leaves, without a container."""
    folder = tmp_path_factory.mktemp("outside")
    subprocess.run(
        [sys.executable, TRAIN, "--folder", folder / "example", *ARGUMENTS],
        check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return left(folder)
