"""A trainer that Peakhold knows nothing of, and a host for it: what a stranger would write."""

import sys

import numpy as np
from safetensors.numpy import load, save

from peakhold.errors import HostError
from peakhold.extend import Host, Resumption


class Trainer:
    """Two arrays, a scale without dimensions, and moments that the first step makes; in place."""

    def __init__(self):
        rng = np.random.default_rng(np.random.randint(99))
        self.params = {
            "first": rng.normal(size=(4, 3)).astype(np.float32),
            "second": rng.normal(size=3).astype(np.float16),
            "scale": np.array(rng.normal()),
        }
        self.moments, self.n_steps = {}, np.zeros((), np.int64)
        self.rates = {"slow": 0.01, "fast": 0.1}
        self.wants_to_end = False

    def step(self):
        if not self.moments:
            self.moments = {name: np.zeros_like(one) for name, one in self.params.items()}
        for name, param in self.params.items():
            noise = np.random.normal(size=param.shape)
            moment = self.moments[name]
            moment[...] = 0.9 * moment + param + noise
            param -= (self.rates["slow" if name == "first" else "fast"] * moment).astype(
                param.dtype
            )
        self.n_steps += 1


class StrangersHost(Host):
    """What cannot be told is left to the contract, which then says None."""

    def __init__(self, trainer):
        self.trainer, self.code = trainer, None

    # State

    def parts(self):
        return ("weights", "optimizer")

    def borrow(self, parts):
        moments = {"moments": self.trainer.moments, "n_steps": self.trainer.n_steps}
        known = {"weights": self.trainer.params, "optimizer": moments}
        return {part: known[part] for part in parts if part in known}

    def ensure_built(self, parts):
        return True

    def named(self, part, tree):
        return list(tree.items()) if part == "weights" else list(tree["moments"].items())

    def snapshot(self, parts):
        return self.like_live(self.borrow(parts))

    def like_live(self, snapshot):
        return {part: copied(tree) for part, tree in snapshot.items()}

    def restore(self, snapshot):
        for name, value in snapshot.get("weights", {}).items():
            self.trainer.params[name][...] = value
        if "optimizer" in snapshot:
            self.trainer.moments = copied(snapshot["optimizer"]["moments"])
            self.trainer.n_steps[...] = snapshot["optimizer"]["n_steps"]

    def nonfinite(self):
        return self.nonfinite_in({"weights": self.trainer.params})

    def nonfinite_in(self, snapshot):
        named = snapshot["weights"].items()
        return frozenset(name for name, array in named if not np.isfinite(array).all())

    def unsynced_weights(self):
        return frozenset()

    def is_sharded(self):
        return False

    def state_bytes(self, *, weights_only=False):
        return sum(one.nbytes for one in self.trainer.params.values())

    def named_weights(self):
        return self.trainer.params.items()

    def steps_done(self):
        return int(self.trainer.n_steps)

    # Gradients, rates

    def check_gradients(self, callback, *, arrays):
        raise HostError(f"{callback}: nobody sees them.\nHint: leave it out.")

    def learning_rates(self):
        return dict(self.trainer.rates)

    def set_learning_rate(self, name, value):
        self.trainer.rates[name] = value

    def check_rates_settable(self, callback):
        """They are."""

    def settable_groups(self):
        return {}

    # Loop

    def request_stop(self):
        self.trainer.wants_to_end = True

    def clear_stop(self):
        self.trainer.wants_to_end = False

    def stop_requested(self):
        return self.trainer.wants_to_end

    def remember_loop(self, frame):
        self.code = frame.f_code

    def owns_frame(self, frame):
        return frame.f_code is self.code

    def runs_fit(self):
        return False

    # Files, words

    def file_suffixes(self):
        return (".safetensors",)

    def write(self, file, suffix, scratch):
        file.write(save(self.trainer.params))

    def plan_file(self, suffix):
        return Planned()

    def versions(self):
        return {"peakhold": "any", "stranger": "1"}

    def metric_directions(self):
        return {}

    def describe(self):
        return "a stranger's trainer"

    def resumption(self):
        return StrangersResumption(self)

    def say(self, message):
        print(message, file=sys.stderr)


class Planned:
    parts = ("weights",)
    extra_bytes = 0

    def write(self, file, held):
        file.write(save(held["weights"]))


class StrangersResumption(Resumption):
    def __init__(self, host):
        self.host = host

    def build(self, config):
        return True

    def more(self):
        return {"rates": self.host.learning_rates()}

    def names(self):
        return {}

    def to_write(self, parts):
        return dict(parts)

    def mismatches(self, parts, names):
        return []

    def put_back(self, parts, more):
        self.host.restore(parts)
        self.host.trainer.rates.update(more["rates"])

    def fit_settings(self):
        return {}

    def settings(self):
        return {}

    def program_settings(self):
        return {}

    def changing_settings(self):
        return frozenset()

    def stateless_base(self, callback):
        return object

    def foreign_backup(self, folder):
        return ()


def copied(tree):
    """All arrays copied, those without dimensions, too."""
    if isinstance(tree, dict):
        return {name: copied(one) for name, one in tree.items()}
    return np.array(tree)


def load_into(trainer, path):
    """Load a file as the stranger's program does."""
    with open(path, "rb") as file:
        trainer.params.update(load(file.read()))
