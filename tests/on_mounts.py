"""A process in mounts of its own: file systems as people have them by mistake, and runs on them.

`python tests/on_mounts.py FOLDER`, in a mount namespace that `unshare` has made. It mounts below the
folder, looks at each place with the doctor and trains there for two epochs, and prints what was said
as JSON: `{place: {"doctor": [[code, level, text], …], "run": {way: [text, …]}, "left": [name, …]}}`.
Nothing that it mounts is seen by anybody else, and all of it is gone when it ends.
"""

import contextlib
import errno
import io
import json
import os
import subprocess
import sys
import traceback
import warnings

import numpy as np

import peakhold
from peakhold import advice
from peakhold.advice import rules  # now: below another root nothing more is loaded
from peakhold.callbacks import callback_list
from peakhold.runtime import narration

assert rules
assert callback_list
KB = 1000


def mount(kind, path, options, source="none"):
    """Mount, or leave the place out: not every kernel lets everybody mount everything."""
    os.makedirs(path, exist_ok=True)
    command = ["mount", "-t", kind, "-o", options, source, path]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(errno.EPERM, f"{' '.join(command)}: {done.stderr.strip()}")
    return path


def overlay(base, upper, path):
    """An overlay whose upper layer is in a folder of somebody's choice."""
    folders = {name: os.path.join(base, name) for name in ("lower", "work")}
    folders |= {"upper": os.path.join(upper, "upper"), "work": os.path.join(upper, "work")}
    for one in folders.values():
        os.makedirs(one, exist_ok=True)
    options = ",".join(f"{name}dir={one}" for name, one in folders.items())
    return mount("overlay", path, options)


def in_a_list(folder, nbytes):
    """A loop's callbacks, as many as people have."""
    weights = {"w": np.zeros(nbytes // 8)}
    host = peakhold.LoopHost(get_state=lambda: weights, set_state=weights.update)
    callbacks = peakhold.CallbackList(
        [
            peakhold.ModelCheckpoint(f"{folder}/best.safetensors", "loss", save_best_only=True),
            peakhold.CSVLogger(f"{folder}/log.csv"),
            peakhold.BackupAndRestore(f"{folder}/backup"),
        ],
        host=host,
        epochs=2,
    )
    callbacks.on_train_begin()
    for epoch in range(2):
        callbacks.on_epoch_begin(epoch)
        callbacks.on_epoch_end(epoch, {"loss": 1.0 / (1 + epoch)})
    callbacks.on_train_end()


def in_a_run(folder, nbytes):
    with peakhold.Run(f"{folder}/run", state={"w": np.zeros(nbytes // 8)}, resume="new") as run:
        for epoch in run.epochs(2):
            for _ in run.batches([1, 2]):
                run.log(loss=1.0 / (1 + epoch))


def said_by(work, folder, nbytes):
    """What a run says of advice, and the error that it ends with."""
    narration._told.clear()  # each is the first of its process
    printed = io.StringIO()
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(printed):
        warnings.simplefilter("always")
        try:
            work(folder, nbytes)
            ended = []
        except Exception as error:
            ended = [f"{type(error).__name__}: {error}"]
    told = [str(one.message) for one in caught] + printed.getvalue().splitlines()
    return [line for line in told if "peakhold.silence" in line] + ended


def looked_at(folder, nbytes=80 * KB, ways=(in_a_list,)):
    """What the doctor and the runs say of a folder."""
    there = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    found = peakhold.diagnose(folder, model_bytes=nbytes)
    left = set(os.listdir(folder)) - there if os.path.isdir(folder) else ()
    return {
        "doctor": [[one.code, one.level, one.text] for one in found.findings],
        "run": {work.__name__: said_by(work, folder, nbytes) for work in ways},
        "left": sorted(left),
    }


def below_another_root(base, volume):
    """As in a container: an overlay for root, and a volume that is mounted into it."""
    layers = mount("tmpfs", f"{base}/layers", "size=64m")
    outside = {name: f"/{name}" for name in os.listdir("/") if name not in {"tmp", "models"}}
    needed = [sys.prefix, sys.base_prefix, *filter(os.path.isdir, sys.path), volume]
    outside |= {one[1:]: one for one in needed if one.startswith("/tmp/")}
    skeleton = f"{base}/lower"
    for name, path in outside.items():
        if os.path.islink(path):
            os.symlink(os.readlink(path), f"{skeleton}/{name}")
        elif os.path.isdir(path):
            os.makedirs(f"{skeleton}/{name}", exist_ok=True)
    for name in ("tmp", "volume"):
        os.makedirs(f"{skeleton}/{name}", exist_ok=True)
    root = overlay(base, layers, f"{base}/root")
    for name, path in {**outside, "volume": volume}.items():
        if os.path.isdir(path) and not os.path.islink(path):
            subprocess.run(["mount", "--rbind", path, f"{root}/{name}"], check=True)
    os.chroot(root)
    os.chdir("/")
    found = {}
    for name in ("container", "KUBERNETES_SERVICE_HOST"):
        os.environ.pop(name, None)
    found["root that is no container's"] = looked_at("/models")
    open("/.dockerenv", "x").close()
    found["container's layer"] = looked_at("/models", ways=(in_a_list, in_a_run))
    found["container's /tmp"] = looked_at(os.path.join("/tmp", "models"))
    found["volume in a container"] = looked_at("/volume", ways=(in_a_list, in_a_run))
    return found


def all_places(base):
    disk = os.path.join(base, "disk")
    os.makedirs(disk)
    tmpfs = mount("tmpfs", f"{base}/tmpfs", "size=64m")
    places = {
        "disk": lambda: looked_at(disk, ways=(in_a_list, in_a_run)),
        "tmpfs": lambda: looked_at(tmpfs, ways=(in_a_list, in_a_run)),
        "overlay on a tmpfs": lambda: looked_at(overlay(base, tmpfs, f"{base}/merged")),
        "overlay on a disk": lambda: looked_at(overlay(base, disk, f"{base}/merged-too")),
        "1 MB": lambda: looked_at(mount("tmpfs", f"{base}/small", "size=1m"), 300 * KB),
        "no inodes": lambda: looked_at(mount("tmpfs", f"{base}/few", "size=64m,nr_inodes=8")),
        "read-only": lambda: looked_at(mount("tmpfs", f"{base}/fixed", "ro,size=64m")),
    }
    found = {}
    for name, look in places.items():
        try:
            found[name] = look()
        except OSError as error:
            found[name] = {"cannot": str(error)}
    try:
        found |= below_another_root(base, disk)
    except (OSError, subprocess.CalledProcessError) as error:
        found["container's layer"] = {"cannot": str(error)}
    return found


if __name__ == "__main__":
    try:
        print(json.dumps(all_places(sys.argv[1])))
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    assert advice
