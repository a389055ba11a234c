"""A run that three trackers are told of, in a process of its own: `tracked.py FOLDER dies|ends|hangs`.

The trackers are the real ones, without a network: what they have is read back with their own means,
W&B's file record by record, and printed as one line of JSON.
"""

import glob
import json
import os
import signal
import struct
import sys
import time

import numpy as np

from peakhold import Every, Run
from peakhold.sinks import MLflowSink, TrackioSink, WandbSink

LOSSES = (1.0, 0.5, 0.25, float("nan"), 0.75)
START = {"dies": 0, "ends": 1}


def refuse_networks():
    """Any connection but to this machine ends the process."""

    def hook(event, arguments):
        if event == "socket.connect":
            address = arguments[1]
            if isinstance(address, tuple) and address[0] not in {"127.0.0.1", "::1", "localhost"}:
                os.write(2, f"a connection to {address}\n".encode())
                os._exit(99)

    sys.addaudithook(hook)


def sinks_for(folder):
    config = {"dataset": "digits", "api_key": "my own", "login": f"as {os.environ['MY_TOKEN']}"}
    return [
        WandbSink("p", config=config, mode="offline", dir=folder, close_timeout_s=60),
        MLflowSink("e", f"file://{folder}/mlflow", config=config, close_timeout_s=60),
        TrackioSink("p", config=config, close_timeout_s=60),
    ]


def train(folder, name, start, *, body=None, **arguments):
    sinks = sinks_for(folder)
    run = Run(
        os.path.join(folder, name), state={"w": np.zeros(2)}, monitor="loss", patience=9, verbose=0,
        save_every=Every(epochs=2), **arguments,
    )  # fmt: skip
    with run:
        for sink in sinks:
            run.add_sink(sink)
        for epoch in run.epochs(5):
            for x in run.batches(np.ones((4, 2))):
                run.state = {"w": run.state["w"] + x}
                run.log(loss=LOSSES[epoch])
            run.log(start=start)  # what is not exact: another value in each start
            if body is not None:
                body(sinks, epoch)


def dies(sinks, epoch):
    """As soon as the trackers have what was told."""
    if epoch == 3:
        from trackio.sqlite_storage import SQLiteStorage

        for sink in sinks:
            assert sink._telling._outbox.flush(60)
        name = sinks[2].run.name
        while SQLiteStorage.get_max_step_for_run("p", name) != 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)


def fails(sinks, epoch):
    raise ValueError("the data is broken")


def hangs(folder):
    """All three, of a server that takes connections and never answers."""
    url = os.environ["SERVER"]
    sinks = [
        WandbSink("p", dir=folder, close_timeout_s=1),
        MLflowSink("e", url, close_timeout_s=1),
        TrackioSink("p", server_url=f"{url}/?write_token=x", close_timeout_s=1),
    ]
    n = 0
    with Run(os.path.join(folder, "run"), state={"w": np.zeros(2)}, verbose=0) as run:
        for sink in sinks:
            run.add_sink(sink)
        for epoch in run.epochs(5):
            run.log(loss=LOSSES[epoch])
            n += 1
        begun = time.monotonic()
    print(json.dumps({"epochs": n, "end": time.monotonic() - begun}))


# What the trackers have


def records(path):
    """Of a file of W&B's, which is a log of LevelDB's with a head of its own."""
    from wandb.proto import wandb_internal_pb2

    data = open(path, "rb").read()
    at, parts = 7, []
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        parts.append(data[at + 7 : at + 7 + size])
        at += 7 + size
        if kind in {1, 4}:  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(b"".join(parts))
            parts = []


def of_wandb(folder):
    import wandb

    wandb.teardown()  # its own process writes the files, and has written all when it has ended
    return [_of_a_file(path) for path in glob.glob(f"{folder}/wandb/offline-run-*/*.wandb")]


def _of_a_file(path):
    found = {"id": None, "config": {}, "rows": [], "summary": {}, "preempting": False, "exit": None}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["id"] = record.run.run_id
            found["name"] = record.run.display_name
            found["config"] |= {
                one.key: json.loads(one.value_json) for one in record.run.config.update
            }
        elif kind == "history":
            items = {
                "/".join(one.nested_key) or one.key: json.loads(one.value_json)
                for one in record.history.item
            }
            found["rows"].append(items | {"step": record.history.step.num})
        elif kind == "summary":
            items = {
                "/".join(one.nested_key) or one.key: json.loads(one.value_json)
                for one in record.summary.update
            }
            found["summary"] |= items
        elif kind == "preempting":
            found["preempting"] = True
        elif kind == "exit":
            found["exit"] = record.exit.exit_code
    return found


def of_mlflow(folder):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"file://{folder}/mlflow")
    experiment = client.get_experiment_by_name("e").experiment_id
    return [
        {
            "status": run.info.status, "name": run.info.run_name,
            "params": run.data.params, "tags": run.data.tags, "last": run.data.metrics,
            "metrics": {
                name: [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            },
        }
        for run in client.search_runs([experiment], order_by=["attribute.start_time ASC"])
    ]  # fmt: skip


def of_trackio():
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    runs = {}
    for run in trackio.Api().runs("p"):
        runs[run.name] = {
            "config": run.config, "alerts": run.alerts(),
            "rows": SQLiteStorage.get_logs("p", run.name, run_id=run.id),
        }  # fmt: skip
    return runs


if __name__ == "__main__":
    refuse_networks()
    folder, how = sys.argv[1:]
    os.chdir(folder)
    if how == "hangs":
        hangs(folder)
        sys.exit()
    train(folder, "run", START[how], body=dies if how == "dies" else None)
    train(folder, "short", 1, time_limit=0)
    try:
        train(folder, "broken", 1, body=fails)
    except ValueError:
        pass
    print(
        json.dumps(
            {"wandb": of_wandb(folder), "mlflow": of_mlflow(folder), "trackio": of_trackio()}
        )
    )
