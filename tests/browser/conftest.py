"""One run, one server, one browser for all tests."""

import pytest

from browser_rig import EPOCHS, Browser, launch, missing, train
from tensorboard_server import Server


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    pytest.importorskip("selenium", reason="no selenium: pip install selenium")
    if missing():
        pytest.skip(missing())
    driver = launch(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def run(driver, tmp_path_factory):
    return train(tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="session")
def browser(driver, run, tmp_path_factory):
    with Server(run.log_dir) as server:
        browser = Browser(driver, server.url, tmp_path_factory.mktemp("screenshots"))
        last = f"{run.model.weights[0].path}/image"

        def loaded():  # it reads while it serves, and a page shows what was there when it came
            lines = [
                server.get("plugin/scalars/scalars", run=name, tag="epoch_loss") or []
                for name in ("train", "validation")
            ]
            images = server.get("plugin/images/images", run="train", tag=last, sample=0) or []
            return all(len(one) == EPOCHS for one in (*lines, images))

        browser.wait(loaded, "the server to have read the run")
        yield browser
