"""What people see: TensorBoard's pages, on what a `fit` has written, in a real browser."""

import pytest

from browser_rig import DIMENSION, EPOCHS, LABELS


def texts(elements):
    return [one.text for one in elements]


def cards_by_tag(browser, kind, tags):
    """The page's cards, once there is one for each tag."""
    browser.wait(lambda: len(browser.now(kind)) >= len(tags), f"{len(tags)} times {kind}")
    cards = {browser.all(".heading-label.name", one)[0].text: one for one in browser.now(kind)}
    assert cards.keys() == set(tags)
    return cards


def paths(browser, selector, card, segments=0):
    """How many lines are drawn in a card, of that many segments at least."""
    drawn = [one.get_attribute("d") or "" for one in browser.now(selector, card)]
    return sum(line.count("L") >= max(segments, 1) for line in drawn)


@pytest.mark.parametrize("metric", ["loss", "mae"])
def test_a_metric_has_the_values_of_the_history(browser, run, metric):
    tag = f"epoch_{metric}"
    browser.open("timeseries")
    browser.all("metrics-tag-filter input")[0].send_keys(f"^{tag}$")

    def rows():
        cards = [one for one in browser.now("scalar-card") if one.is_displayed()]
        if len(cards) != 1 or texts(browser.now(".tag", cards[0])) != [tag]:
            return None
        header = texts(browser.now("tb-data-table-header-cell", cards[0]))
        cells = [
            one.text.splitlines() for one in browser.now("tb-data-table-content-row", cards[0])
        ]
        found = [dict(zip(header[1:], row, strict=False)) for row in cells]
        return found if [one.get("Run") for one in found] == ["train", "validation"] else None

    train, validation = browser.wait(rows, "both runs in the table of one card")
    browser.picture(f"time-series-{metric}")
    for row, values in [(train, metric), (validation, f"val_{metric}")]:
        assert float(row["Value"]) == pytest.approx(run.history[values][-1], rel=1e-3)
        assert row["Step"] == str(EPOCHS - 1)


def test_a_metric_is_drawn_as_a_line_for_each_run(browser):
    browser.open("scalars&tagFilter=epoch_loss")
    card = browser.all("tf-scalar-card")[0]
    browser.wait(
        lambda: texts(browser.now(".heading-label.name", card)) == ["epoch_loss"], "its card"
    )
    browser.wait(lambda: paths(browser, "path.line", card, EPOCHS - 1) >= 2, "two lines")
    browser.picture("scalars")


@pytest.mark.parametrize(
    ("page", "card", "path"),
    [
        ("histograms", "tf-histogram-loader", "path.outline"),
        ("distributions", "tf-distribution-loader", "path.area"),
    ],
)
def test_each_weight_has_a_histogram_for_each_epoch(browser, run, page, card, path):
    browser.open(page)
    cards = cards_by_tag(browser, card, [f"{one.path}/histogram" for one in run.model.weights])
    for tag, one in cards.items():
        browser.wait(lambda one=one: paths(browser, path, one) >= EPOCHS, f"{page} of {tag}")
    browser.picture(page)


def test_each_weight_of_two_numbers_and_more_has_an_image(browser, run):
    browser.open("images")
    weights = {f"{one.path}/image": one for one in run.model.weights if one.shape != (1,)}
    cards = cards_by_tag(browser, "tf-image-loader", list(weights))
    size = "return arguments[0].complete && [arguments[0].naturalWidth, arguments[0].naturalHeight]"
    for tag, one in cards.items():
        image = browser.all("img", one)[0]
        found = browser.wait(lambda image=image: browser.driver.execute_script(size, image), tag)
        assert sorted(found) == sorted((*weights[tag].shape, 1)[:2])
    browser.picture("images")


@pytest.mark.parametrize("kind", ["op_graph", "conceptual_graph"])
def test_the_layers_are_drawn_as_a_graph(browser, run, kind):
    browser.open("graphs")
    chosen = browser.all(f"paper-radio-button[name={kind}]")[0]
    if kind == "conceptual_graph":  # the page opens on the other one
        chosen.click()
    layers = {f"climb/{layer.name}" for layer in run.model.layers}
    double_click = "arguments[0].dispatchEvent(new MouseEvent('dblclick', {bubbles: true}))"

    def drawn():
        nodes = {one.get_attribute("data-name"): one for one in browser.now("g.node")}
        if layers <= nodes.keys():
            return True
        model = nodes.get("climb")
        if model is not None and "expanded" not in model.get_attribute("class"):
            browser.driver.execute_script(double_click, browser.all("rect", model)[0])
        return False

    browser.wait(drawn, f"nodes {layers}")
    browser.picture(f"graphs-{kind}")


def test_the_points_of_an_embedding_and_their_labels(browser):
    browser.open("projector")
    browser.frame()  # the page's, and in it the plugin's own
    browser.frame()
    size = [str(len(LABELS)), str(DIMENSION)]
    browser.wait(lambda: texts(browser.now(".numDataPoints, .dim")) == size, f"the size {size}")
    panel = browser.all("vz-projector-inspector-panel")[0]
    browser.all("input", panel)[0].send_keys("peak")
    browser.wait(lambda: texts(browser.now(".matches-list a.label", panel)) == LABELS, "all labels")
    browser.picture("projector")
