"""The checkpoint store beside its peers, in one run: ratios to a warm memcpy and to write + fsync.

    python benchmarks/store.py [--mb 420] [--rounds 9] [--only numpy,torch,jax] [--write] [--quick]

Each round measures the two yardsticks and then every competitor, one after the other, so that a
disturbance hits all alike; medians of the rounds' ratios are shown, with their quartiles, and, for
a machine that others use too, the quickest round over the quickest yardstick (`best`). Every
competitor gets the same tensors, changed in place before each save (fresh pages are not a steady
state). `stall` is what the training thread loses: the call, and the wait for an earlier save if the
competitor makes it wait. Saves are spaced: each is durable before the next begins.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GLOG_minloglevel", "3")

import numpy as np

from peakhold.files import background
from peakhold.store import KeepLast, Reader, Store

HERE = Path(__file__).parent
TENSORS = 150  # a model of 50 layers and Adam's two moments
MANY_TENSORS, MANY_CHECKPOINTS = 10_000, 1000
LONG_RUN, NEAR = 2000, 15  # epochs; a median is over so many around one
QUICK = {
    "TENSORS": 6, "MANY_TENSORS": 20, "MANY_CHECKPOINTS": 5, "LONG_RUN": 8, "NEAR": 1,
}  # fmt: skip


class Clock:
    """Wall and CPU seconds of a block."""

    def __enter__(self):
        self.cpu0, self.wall0 = self._cpu(), time.perf_counter()
        return self

    def __exit__(self, *_):
        self.wall = time.perf_counter() - self.wall0
        self.cpu = self._cpu() - self.cpu0

    @staticmethod
    def _cpu():
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime


def make_state(kind, megabytes):
    count = megabytes * 1_000_000 // 4 // TENSORS
    rng = np.random.default_rng(0)
    arrays = {
        f"layer{i:03d}/kernel": rng.standard_normal(count).astype(np.float32)
        for i in range(TENSORS)
    }
    if kind == "torch":
        import torch

        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    if kind == "jax":
        import jax.numpy as jnp

        return {name: jnp.array(array) for name, array in arrays.items()}
    return arrays


def touch(kind, state):
    """A training step: every tensor gets new values."""
    if kind == "jax":
        import jax

        for name in state:
            state[name] = state[name] + 1
        jax.block_until_ready(list(state.values()))
    else:
        for tensor in state.values():
            tensor += 1


class Yardsticks:
    def __init__(self, nbytes, folder):
        self.source = np.ones(nbytes, np.uint8)
        self.target = np.zeros(nbytes, np.uint8)
        self.path = folder / "yardstick"

    def memcpy(self):
        with Clock() as clock:
            np.copyto(self.target, self.source)
        return clock

    def write(self):
        view = memoryview(self.source)
        with Clock() as clock:
            fd = os.open(self.path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
            for at in range(0, len(view), 8 << 20):
                os.write(fd, view[at : at + (8 << 20)])
            os.fsync(fd)
            os.close(fd)
        return clock

    def read(self):
        with Clock() as clock:
            np.fromfile(self.path, np.uint8)
        return clock

    def checksum(self):
        import xxhash

        with Clock() as clock:
            xxhash.xxh3_128_hexdigest(self.source)
        return clock


class Ours:
    name = "peakhold"
    options: dict = {}

    def __init__(self, folder, state):
        self.store = Store(folder, KeepLast(1), undo=0)
        self.store.prepare({"model": state})
        self.state = state

    def save(self, step):
        self.pending = self.store.save(step, {"model": self.state}, **self.options)

    def durable(self):
        self.pending.result()

    def settle(self):
        self.store.wait()

    def load(self):
        self.store.load("latest")

    def close(self):
        self.store.close()


class OursImmutable(Ours):
    name = "peakhold, immutable=True"
    options = {"immutable": True}


class TorchSave:
    name = "torch.save"

    def __init__(self, folder, state):
        self.path, self.state = folder / "state.pt", state

    def save(self, step):
        import torch

        torch.save(self.state, self.path)

    def durable(self):
        pass

    settle = close = durable

    def load(self):
        import torch

        torch.load(self.path)


class Safetensors(TorchSave):
    name = "safetensors save_file"

    def save(self, step):
        module("safetensors.torch" if is_torch(self.state) else "safetensors.numpy").save_file(
            {k: v if is_torch(self.state) else np.asarray(v) for k, v in self.state.items()},
            self.path,
        )

    def load(self):
        module("safetensors.torch" if is_torch(self.state) else "safetensors.numpy").load_file(
            self.path
        )


class DCPAsync:
    name = "torch DCP async_save"

    def __init__(self, folder, state):
        import torch.distributed as dist

        if not dist.is_initialized():
            dist.init_process_group(
                "gloo", init_method=f"file://{tempfile.mktemp()}", rank=0, world_size=1
            )
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
        from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

        self.folder, self.state = folder, state
        self.stager = DefaultStager(StagingOptions(False, False, False, False))
        self.options = {
            "async_checkpointer_type": AsyncCheckpointerType.THREAD,
            "async_stager": self.stager,
        }

    def save(self, step):
        import torch.distributed.checkpoint as dcp

        shutil.rmtree(self.folder / f"{step - 1}", ignore_errors=True)
        self.response = dcp.async_save(
            self.state, checkpoint_id=self.folder / f"{step}", **self.options
        )

    def durable(self):
        getattr(self.response, "upload_completion", self.response).result()

    def settle(self):
        pass

    load = None

    def close(self):
        self.stager.close()


class OrbaxAsync:
    name = "Orbax AsyncCheckpointer"
    load = None

    def __init__(self, folder, state):
        import orbax.checkpoint as ocp

        self.ocp, self.folder, self.state = ocp, folder, state
        self.checkpointer = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())

    def save(self, step):
        tree = {k.replace("/", "."): v for k, v in self.state.items()}
        self.checkpointer.save(
            self.folder.absolute() / f"{step}", args=self.ocp.args.StandardSave(tree), force=True
        )

    def durable(self):
        self.checkpointer.wait_until_finished()

    def settle(self):
        for old in self.folder.iterdir():
            shutil.rmtree(old, ignore_errors=True)

    def close(self):
        self.checkpointer.close()


class KerasModelCheckpoint:
    """A Keras model of the same size, through `ModelCheckpoint`'s own save."""

    name = "Keras ModelCheckpoint"
    load = None

    def __init__(self, folder, state):
        import keras

        width = int((sum(t.nbytes for t in state.values()) / 4 / 8) ** 0.5)
        self.model = keras.Sequential(
            [keras.Input((width,))] + [keras.layers.Dense(width) for _ in range(8)]
        )
        self.callback = keras.callbacks.ModelCheckpoint(str(folder / "model.keras"))
        self.callback.set_model(self.model)

    def save(self, step):
        self.callback.on_epoch_end(step, {"loss": 1.0})

    def durable(self):
        pass

    settle = close = durable


def module(name):
    import importlib

    return importlib.import_module(name)


def is_torch(state):
    return type(next(iter(state.values()))).__module__.startswith("torch")


COMPETITORS = {
    "numpy": [Ours, OursImmutable, Safetensors, OrbaxAsync],
    "torch": [Ours, TorchSave, Safetensors, DCPAsync, KerasModelCheckpoint],
    "jax": [Ours, OursImmutable, OrbaxAsync],
}


def measure(kind, megabytes, rounds, base):
    state = make_state(kind, megabytes)
    nbytes = sum(t.nbytes for t in state.values())
    yard = Yardsticks(nbytes, base)
    yard.memcpy(), yard.write()
    rows = {}
    for make in COMPETITORS[kind]:
        folder = base / make.__name__
        folder.mkdir()
        try:
            competitor = make(folder, state)
        except ImportError as error:
            print(f"  {make.name}: not here ({error})")
            continue
        rows[make.name] = results = {key: [] for key in ("stall", "durable", "cpu", "load", "ms")}
        for step in range(rounds + 1):
            touch(kind, state)
            gc.collect()
            copies = [yard.memcpy() for _ in range(3)]
            copy = statistics.median(c.wall for c in copies)
            write, checksum = yard.write(), yard.checksum()
            touch(kind, state)
            with Clock() as whole:
                with Clock() as call:
                    competitor.save(step)
                competitor.durable()
            competitor.settle()
            stall = call.wall / copy
            if step == 0:
                results["first"] = stall
                continue
            results["stall"].append(stall)
            results["ms"].append(call.wall * 1000)
            results["durable"].append(whole.wall / write.wall)
            results["cpu"].append(whole.cpu / (copies[1].cpu + checksum.cpu + write.cpu))
            for key, value in (("copy", min(c.wall for c in copies)), ("write", write.wall),
                               ("work", copies[1].cpu + checksum.cpu + write.cpu),
                               ("wall", whole.wall), ("used", whole.cpu)):  # fmt: skip
                results.setdefault(key, []).append(value)
        if competitor.load is not None:
            for _ in range(rounds):
                read = yard.read()
                with Clock() as load:
                    competitor.load()
                results["load"].append(load.wall / read.wall)
                results.setdefault("read", []).append(read.wall)
                results.setdefault("loaded", []).append(load.wall)
        competitor.close()
        shutil.rmtree(folder)
        print(f"  {make.name} done", flush=True)
    yardsticks = {
        "memcpy": [yard.memcpy().wall for _ in range(rounds)],
        "write + fsync": [yard.write().wall for _ in range(rounds)],
        "read": [yard.read().wall for _ in range(rounds)],
        "xxh3-128": [yard.checksum().wall for _ in range(rounds)],
    }
    return nbytes, yardsticks, rows


def spread(values, best=(), yardstick=()):
    """Median of the rounds' ratios (quartiles), and the quickest round over the quickest yardstick."""
    if not values:
        return "–"
    low, mid, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    quiet = f"; best {min(best) / min(yardstick):.2f}" if best else ""
    return f"{mid:.2f} ({low:.2f}–{high:.2f}){quiet}"


def table(kind, nbytes, yardsticks, rows):
    yard = ", ".join(f"{n} {statistics.median(v) * 1000:.0f} ms" for n, v in yardsticks.items())
    lines = [
        f"### {kind}: {nbytes / 1e6:.0f} MB in {TENSORS} tensors",
        "",
        f"Yardsticks: {yard}.",
        "",
        "| | stall, steady (× memcpy) | first (× memcpy) | stall, ms | call → durable (× write + fsync) | CPU (× copy + checksum + write) | load (× read) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, r in rows.items():
        stalls = [ms / 1000 for ms in r["ms"]]
        cells = [
            spread(r["stall"], stalls, r["copy"]),
            f"{r['first']:.2f}",
            f"{statistics.median(r['ms']):.0f}",
            spread(r["durable"], r["wall"], r["write"]),
            spread(r["cpu"], r["used"], r["work"]),
            spread(r["load"], r.get("loaded", ()), r.get("read", ())),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def many_of(kind):
    """Small arrays of a kind in a tree, and what copies one."""
    if kind == "torch":
        import torch

        make, copy = lambda i: torch.full((16,), float(i)), lambda tensor: tensor.clone()
    elif kind == "jax":
        import jax.numpy as jnp

        make, copy = lambda i: jnp.full(16, float(i)), np.array
    else:
        make, copy = lambda i: np.full(16, i, np.float32), lambda array: array.copy()
    tree = {}
    for i in range(MANY_TENSORS):
        tree.setdefault(f"block{i // 100}", {})[f"t{i}"] = make(i)
    return tree, copy


def beside_copies(base, kind):
    """CPU of the thread that trains: a save of many small arrays, beside a copy of each."""
    tree, copy = many_of(kind)
    arrays = [array for block in tree.values() for array in block.values()]
    saves, copies = [], []
    with Store(base / f"many-{kind}", KeepLast(1), undo=0) as store:
        store.save(0, {"model": tree, "train": {"step": 0}}).result()
        for step in range(1, 10):
            began = time.thread_time()
            copied = [copy(array) for array in arrays]
            copies.append(time.thread_time() - began)
            del copied
            began = time.thread_time()
            pending = store.save(step, {"model": tree, "train": {"step": step}})
            saves.append(time.thread_time() - began)
            pending.result()
            store.wait()
    save, each = statistics.median(saves), statistics.median(copies)
    ratio = statistics.median(s / c for s, c in zip(saves, copies, strict=True))
    return (
        f"- {MANY_TENSORS:,} small arrays of {kind}: `save` takes {ratio:.1f} × the CPU of copying "
        f"each ({save * 1000:.1f} ms against {each * 1000:.1f})."
    )


def backups_of_a_long_run(base, kind, make):
    """CPU of a backup early in a run and late, of the thread that trains and of the process."""
    import peakhold

    state = {"w": np.zeros(10)}
    host = peakhold.LoopHost(get_state=lambda: state, set_state=state.update)
    backup = peakhold.BackupAndRestore(base / f"backup-{len(kind)}")
    callbacks = peakhold.CallbackList([backup], host=host, epochs=LONG_RUN + 1, verbose=0)
    callbacks.on_train_begin()
    own, whole = [], []
    rng = np.random.default_rng(0)
    for epoch in range(LONG_RUN):
        callbacks.on_epoch_begin(epoch)
        logs = {
            name: make(rng.random()) for name in ("loss", "accuracy", "val_loss", "val_accuracy")
        }
        began, all_began = time.thread_time(), time.process_time()
        callbacks.on_epoch_end(epoch, logs)
        own.append(time.thread_time() - began)
        background.drain()
        whole.append(time.process_time() - all_began)
    callbacks.on_train_end()

    def around(times, epoch):
        return statistics.median(times[max(0, epoch - NEAR) : epoch + NEAR]) * 1000

    early, late = min(10, LONG_RUN // 2) + NEAR, LONG_RUN - NEAR
    return (
        f"- A backup after {early - NEAR:,} epochs, four metrics of {kind}: {around(own, early):.1f} ms CPU "
        f"of the thread that trains, {around(whole, early):.1f} of the process; after {LONG_RUN:,}: "
        f"{around(own, late):.1f} and {around(whole, late):.1f}."
    )


def small_things(base, kinds):
    """Many small tensors; many checkpoints."""
    many = {f"block{i // 100}/t{i}": np.full(16, i, np.float32) for i in range(MANY_TENSORS)}
    lines = ["### Many small tensors, many checkpoints", ""]
    lines += [beside_copies(base, kind) for kind in kinds]
    makes = {"floats": float, "ints and floats": lambda v: v if v < 0.5 else int(v * 1e6)}
    lines += [backups_of_a_long_run(base, kind, make) for kind, make in makes.items()]
    with Store(base / "tensors") as store:
        store.prepare({"model": many})
        stalls, durables, loads = [], [], []
        for step in range(5):
            with Clock() as whole:
                pending = store.save(step, {"model": many})
                stalls.append(store.stats.last_blocked_s)
                pending.result()
            durables.append(whole.wall)
            with Clock() as load:
                store.load(step)
            loads.append(load.wall)
    lines.append(
        f"- {MANY_TENSORS:,} tensors: stall {min(stalls) * 1000:.0f} ms, call → durable {min(durables) * 1000:.0f} ms, "
        f"load, verified {min(loads) * 1000:.0f} ms."
    )
    with Store(base / "checkpoints") as store:
        state = {"model": {f"w{i}": np.ones(10) for i in range(30)}}
        with Clock() as saving:
            for step in range(MANY_CHECKPOINTS):
                store.save(step, state, metrics={"loss": 1 / (1 + step)})
            store.wait()
    reader = Reader(base / "checkpoints")
    with Clock() as cold:
        reader.best("loss", "min")
    with Clock() as warm:
        reader.best("loss", "min")
    lines.append(
        f"- {MANY_CHECKPOINTS:,} checkpoints of 30 tensors: "
        f"{saving.wall / MANY_CHECKPOINTS * 1000:.2f} ms to save one; `best` {cold.wall * 1000:.0f} ms in a "
        f"fresh reader, {warm.wall * 1000:.0f} ms again."
    )
    code = "import time; t=time.perf_counter(); import peakhold; print(time.perf_counter()-t)"
    times = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(5)]
    lines.append(f"- `import peakhold`: {min(times) * 1000:.0f} ms.")
    return "\n".join(lines)


def machine():
    model = next(
        (line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line), ""
    )
    versions = []
    for name in ("numpy", "torch", "jax", "keras", "safetensors", "orbax-checkpoint"):
        from importlib.metadata import PackageNotFoundError, version

        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"{name} not installed")
    return (
        f"{os.cpu_count()} cores of {model}, Linux {platform.release()}, Python {platform.python_version()}; "
        f"{', '.join(versions)}; load average before: {os.getloadavg()[0]:.2f}."
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mb", type=int, default=420)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="numpy,torch,jax")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    parser.add_argument("--quick", action="store_true", help="one small round: whether it runs")
    options = parser.parse_args(arguments)
    if options.quick:
        globals().update(QUICK)
        options.mb = options.rounds = 1
    warnings.simplefilter("ignore")
    sections = [f"## The checkpoint store\n\n{machine()}"]
    with tempfile.TemporaryDirectory(dir=HERE) as base:
        for kind in options.only.split(","):
            print(f"{kind} …", flush=True)
            folder = Path(base) / kind
            folder.mkdir()
            sections.append(table(kind, *measure(kind, options.mb, options.rounds, folder)))
            print(sections[-1], flush=True)
            shutil.rmtree(folder)
            if options.write:  # a run that is cut short leaves what it has
                write_section("\n\n".join(sections) + "\n")
        sections.append(small_things(Path(base), options.only.split(",")))
        print(sections[-1])
    background.drain()
    text = "\n\n".join(sections) + "\n"
    if options.write:
        write_section(text)
    return text


def write_section(text):
    """Replace our part of RESULTS.md, leave the rest."""
    path = HERE / "RESULTS.md"
    begin, end = "<!-- store -->\n", "<!-- /store -->\n"
    old = path.read_text("utf-8") if path.exists() else f"# Results\n\n{begin}{end}"
    if begin not in old:
        old += f"\n{begin}{end}"
    before, _, rest = old.partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(f"{before}{begin}{text}{end}{after}", "utf-8")


if __name__ == "__main__":
    main()
