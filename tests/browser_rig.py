"""A run for TensorBoard to show, and a browser with eyes for what is drawn in shadow DOMs."""

import dataclasses
import pathlib
import shutil

import numpy as np

PATIENCE_S = 180
"""For one condition. Machines are shared; a page that is there is seen at once all the same."""
LABELS = [f"{name} peak" for name in ("Eiger", "Rigi", "Säntis", "Titlis", "Pilatus", "Mönch")]
EPOCHS, DIMENSION = 4, 3
_DRAWN = """
const [selector, root] = arguments, found = [];
(function walk(node) {
  for (const one of node.querySelectorAll('*')) {
    if (one.matches(selector)) found.push(one);
    if (one.shadowRoot) walk(one.shadowRoot);
  }
})(root ? root.shadowRoot || root : document);
return found;
"""


@dataclasses.dataclass
class Run:
    """What was trained, for comparison with what is seen."""

    log_dir: pathlib.Path
    model: object
    history: dict


def train(log_dir):
    """A `fit` that writes all there is to see."""
    import keras
    import peakhold.keras as pk

    (log_dir / "peaks.tsv").write_text("\n".join(LABELS) + "\n", "utf-8")
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Embedding(len(LABELS), DIMENSION, name="peaks"),
            keras.layers.Flatten(name="flat"),
            keras.layers.Dense(4, name="hidden"),
            keras.layers.Dense(1, name="answer"),
        ],
        name="climb",
    )
    model.compile("adam", "mse", metrics=["mae"])
    x = np.random.default_rng(1).integers(0, len(LABELS), (32, 2))
    board = pk.TensorBoard(
        log_dir, histogram_freq=1, write_images=True, update_freq=1, embeddings_freq=1,
        embeddings_metadata={"peaks": "peaks.tsv"},
    )  # fmt: skip
    history = model.fit(
        x, x.sum(axis=1) / 3, validation_split=0.25, batch_size=8, epochs=EPOCHS, verbose=0,
        callbacks=[board],
    )  # fmt: skip
    return Run(log_dir, model, history.history)


def missing():
    """What must be installed for a browser to be had; None if it is there."""
    programs = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if programs:
        return f"no {' and no '.join(programs)}: apt-get install chromium chromium-driver"
    return None


def launch(profile):
    """Headless Chromium; nothing is downloaded for it."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-dev-shm-usage", "--window-size=1400,1000",
        f"--user-data-dir={profile}",
        # What TensorBoard shows must not need anything from outside.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):  # fmt: skip
        options.add_argument(argument)
    return webdriver.Chrome(options, Service(shutil.which("chromedriver")))


class Browser:
    """Chromium on TensorBoard's pages. What is searched for is waited for."""

    def __init__(self, driver, url, screenshots):
        self.driver, self.url, self.screenshots = driver, url, screenshots

    def open(self, page):
        self.driver.get("about:blank")  # only the fragment differs: that alone would load nothing
        self.driver.get(f"{self.url}#{page}")

    def wait(self, condition, what):
        """The first true value of a condition; elements may go while it looks at them."""
        from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
        from selenium.webdriver.support.ui import WebDriverWait

        wait = WebDriverWait(
            self.driver, PATIENCE_S, ignored_exceptions=[StaleElementReferenceException]
        )
        try:
            return wait.until(lambda driver: condition(), f"waited {PATIENCE_S} s for {what}")
        except TimeoutException:
            self.picture("what-was-there-instead")
            raise

    def now(self, selector, root=None):
        """Elements that match, inside shadow roots, too."""
        return self.driver.execute_script(_DRAWN, selector, root)

    def all(self, selector, root=None):
        return self.wait(lambda: self.now(selector, root), selector)

    def frame(self):
        """Go on in the page's frame."""
        self.driver.switch_to.frame(self.all("iframe")[0])

    def picture(self, name):
        """To look at: `--basetemp` says where they go."""
        self.driver.save_screenshot(str(self.screenshots / f"{name}.png"))
