"""The table in a real kernel of Jupyter's, on loopback: what a notebook's page is told."""

import queue
import sys
import textwrap

import pytest

pytest.importorskip("ipykernel", reason="pip install ipykernel")

from jupyter_client.manager import KernelManager

CELL = """
    from peakhold import speech
    from peakhold.run.display import display_for
    display = display_for()
    display.begin("runs/digits", 3)
    for epoch in range(3):
        display.epoch_begins(epoch, 5)
        for i in range(5):
            display.batch_done(i)
        speech.say(f"Epoch {epoch + 1}: saved")
        display.epoch_ends(epoch, {"loss": 0.5 + epoch}, "loss 0.5 (epoch 1)", 2 - epoch)
    display.end("over")
    """


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=120)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def told(client, code):
    """Messages to the page until the cell is over."""
    request = client.execute(textwrap.dedent(code))
    messages = []
    while True:
        try:
            message = client.get_iopub_msg(timeout=120)
        except queue.Empty:
            pytest.fail("the kernel says nothing")
        if message["parent_header"].get("msg_id") != request:
            continue
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            return messages
        messages.append((message["msg_type"], message["content"]))


def test_one_table_is_updated_in_place(kernel):
    messages = told(kernel, CELL)
    shown = [content for kind, content in messages if kind == "display_data"]
    updated = [content for kind, content in messages if kind == "update_display_data"]
    printed = "".join(content["text"] for kind, content in messages if kind == "stream")

    assert not [content for kind, content in messages if kind == "error"]
    assert len(shown) == 1
    names = {content["transient"]["display_id"] for content in shown + updated}
    assert len(names) == 1
    assert len(updated) >= 4  # three epochs, the end
    html = updated[-1]["data"]["text/html"]
    assert html.count("<tr>") == 4
    assert "<td>Epoch 3/3</td><td>2.5</td>" in html
    assert "best loss 0.5 (epoch 1); 0 checks left" in html
    assert "Epoch 3/3: loss 2.5" in updated[-1]["data"]["text/plain"]
    assert printed == "Epoch 1: saved\nEpoch 2: saved\nEpoch 3: saved\nover\n"
