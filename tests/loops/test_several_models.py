"""Several models and optimizers by name, as in a GAN."""

import csv
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import peakhold
from peakhold.errors import BackupMismatchError, InvalidArgumentError


class Gan:
    """Two small nets, two optimizers; the generator's has two groups on demand."""

    def __init__(self, callbacks, *, names=("g", "d"), groups=1, epochs=6, compiled=False, units=4):
        torch.manual_seed(0)
        first, second = names
        g = torch.nn.Sequential(torch.nn.Linear(2, units), torch.nn.Linear(units, 2))
        d = torch.nn.Sequential(torch.nn.Linear(2, units), torch.nn.BatchNorm1d(units))
        parameters = list(g.parameters())
        parts = [{"params": parameters[i::groups]} for i in range(groups)]
        self.optimizers = {
            first: torch.optim.Adam(parts, lr=0.1),
            second: torch.optim.SGD(d.parameters(), lr=0.01, momentum=0.9),
        }
        self.nets = {first: torch.nn.DataParallel(g) if compiled else g, second: d}
        self.list = peakhold.CallbackList(
            callbacks, self.nets, optimizer=self.optimizers, epochs=epochs, verbose=0
        )
        self.at = {}
        self.epochs = epochs

    def run(self, values=(), crash_in=None):
        self.list.on_train_begin()
        for epoch in range(self.list.initial_epoch, self.epochs):
            self.list.on_epoch_begin(epoch)
            if epoch == crash_in:
                raise ZeroDivisionError
            for name, net in self.nets.items():
                self.optimizers[name].zero_grad()
                net(torch.ones(3, 2) * (1 + epoch)).square().mean().backward()
                self.optimizers[name].step()
            self.at[epoch] = self.state()
            value = values[epoch] if epoch < len(values) else 1.0
            self.list.on_epoch_end(epoch, {"loss": value})
            if self.list.stop_training:
                break
        self.list.on_train_end()
        return self

    def state(self):
        return {
            f"{name}.{key.removeprefix('module.')}": value.clone()
            for name, net in self.nets.items()
            for key, value in net.state_dict().items()
        }

    def moments(self):
        return [
            {key: value.clone() for key, value in slots.items() if torch.is_tensor(value)}
            for one in self.optimizers.values()
            for slots in one.state.values()
        ]


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_best_of_all_of_them_is_restored_together():
    stopping = peakhold.EarlyStopping(
        "loss", patience=2, restore_best_weights=True, restore_optimizer=True
    )
    gan = Gan(stopping)
    gan.run([0.5, 0.3, 0.4, 0.4])

    assert equal(gan.state(), gan.at[1])
    steps = [int(slots["step"]) for slots in gan.optimizers["g"].state.values()]
    assert steps == [2] * 4


def test_a_file_has_the_names_of_all(tmp_path):
    saving = peakhold.ModelCheckpoint(
        tmp_path / "best.safetensors", monitor="loss", save_best_only=True
    )
    gan = Gan(saving).run([0.5, 0.3, 0.4])
    file = load_file(tmp_path / "best.safetensors")

    assert equal(file, gan.at[1])
    assert {"g.0.weight", "g.1.bias", "d.0.weight", "d.1.running_mean"} <= file.keys()


def test_what_wraps_one_of_them_is_not_in_the_names(tmp_path):
    saving = peakhold.ModelCheckpoint(tmp_path / "last.safetensors")
    Gan(saving, compiled=True, epochs=1).run()

    assert "g.0.weight" in load_file(tmp_path / "last.safetensors")


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("crash_in", [1, 4])
def test_a_resume_brings_all_of_them_back_exactly(tmp_path, groups, crash_in):
    def made(folder):
        return Gan(
            [peakhold.BackupAndRestore(folder), peakhold.ReduceLROnPlateau("loss", patience=2)],
            groups=groups,
        )

    whole = made(tmp_path / "a").run()
    with pytest.raises(ZeroDivisionError):
        made(tmp_path / "b").run(crash_in=crash_in)
    resumed = made(tmp_path / "b")
    for net in resumed.nets.values():
        for parameter in net.parameters():
            torch.nn.init.zeros_(parameter)
    resumed.run()

    assert equal(resumed.state(), whole.state())
    assert len(whole.moments()) == 8 and all(map(equal, resumed.moments(), whole.moments()))
    for name, one in whole.optimizers.items():
        rates = [group["lr"] for group in one.param_groups]
        assert [group["lr"] for group in resumed.optimizers[name].param_groups] == rates


def test_under_a_wrapper_now_and_plain_then(tmp_path):
    with pytest.raises(ZeroDivisionError):
        Gan(peakhold.BackupAndRestore(tmp_path)).run(crash_in=2)
    resumed = Gan(peakhold.BackupAndRestore(tmp_path), compiled=True).run()

    assert equal(resumed.state(), Gan([]).run().state())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": ("g", "critic")}, "optimizers 'g', 'd' in the backup, 'g', 'critic' now"),
        ({"units": 5}, r"g\.0\.weight: (4, 2) in the backup, (5, 2) in the model"),
    ],
)
def test_other_models_are_an_error_before_the_first_batch(tmp_path, change, words):
    with pytest.raises(ZeroDivisionError):
        Gan(peakhold.BackupAndRestore(tmp_path)).run(crash_in=2)
    with pytest.raises(BackupMismatchError) as caught:
        Gan(peakhold.BackupAndRestore(tmp_path), **change).list.on_train_begin()

    assert words.replace("\\", "") in str(caught.value)


@pytest.mark.parametrize("was_several", [True, False])
def test_one_and_several_are_not_the_same(tmp_path, was_several):
    def made(several):
        net = torch.nn.Linear(1, 1)
        opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        callbacks = peakhold.CallbackList(
            peakhold.BackupAndRestore(tmp_path),
            {"n": net} if several else net,
            optimizer={"n": opt} if several else opt,
            verbose=0,
        )
        callbacks.on_train_begin()
        return callbacks

    callbacks = made(was_several)
    callbacks.on_epoch_begin(0)
    callbacks.on_epoch_end(0, {"loss": 1.0})
    with pytest.raises(BackupMismatchError, match=r"one optimizer|, one now"):
        made(not was_several)


def test_the_plateau_lowers_all_rates_and_each_has_its_column(tmp_path):
    plateau = peakhold.ReduceLROnPlateau("loss", factor=0.5, patience=1)
    gan = Gan([plateau, peakhold.CSVLogger(tmp_path / "log.csv")], groups=2, epochs=3)
    gan.run([1.0, 1.0, 1.0])
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))

    columns = ["learning_rate_d", "learning_rate_g_0", "learning_rate_g_1"]
    assert [name for name in rows[0] if name.startswith("learning")] == columns
    assert [[float(row[name]) for name in columns] for row in rows] == [
        [0.01, 0.1, 0.1], [0.01, 0.1, 0.1], [0.005, 0.05, 0.05],
    ]  # fmt: skip
    assert [g["lr"] for g in gan.optimizers["g"].param_groups] == [0.025, 0.025]


def test_an_optimizer_whose_rate_is_its_own_goes_into_extra(tmp_path):
    """It is in the backup all the same."""

    def made():
        net = torch.nn.Linear(1, 1)
        ours = torch.optim.SGD(net.parameters(), lr=0.1)
        own = torch.optim.Adam(net.parameters(), lr=0.1)
        callbacks = peakhold.CallbackList(
            [peakhold.BackupAndRestore(tmp_path), peakhold.ReduceLROnPlateau("loss", patience=1)],
            net, optimizer=ours, extra={"own": own}, verbose=0,
        )  # fmt: skip
        callbacks.on_train_begin()
        return callbacks, net, ours, own

    callbacks, net, ours, own = made()
    for epoch in range(3):
        callbacks.on_epoch_begin(epoch)
        net(torch.ones(1, 1)).sum().backward()
        own.step()
        callbacks.on_epoch_end(epoch, {"loss": 1.0})
    assert (ours.param_groups[0]["lr"], own.param_groups[0]["lr"]) != (0.1, 0.1)
    assert own.param_groups[0]["lr"] == 0.1
    _, _, ours_again, own_again = made()

    assert ours_again.param_groups[0]["lr"] == ours.param_groups[0]["lr"]
    assert [int(slots["step"]) for slots in own_again.state.values()] == [3, 3]


def test_gradients_of_all_are_looked_at(tmp_path):
    gan = Gan(peakhold.TensorBoard(tmp_path, histogram_freq=1, write_gradients=True), epochs=1)
    gan.run()
    host = gan.list._peakhold_host
    looked = dict(host.gradients())

    assert {"g.0.weight", "d.0.weight"} <= looked.keys()
    assert host.gradient_facts().largest > 0


def test_a_member_that_is_no_model_is_named():
    with pytest.raises(InvalidArgumentError, match=re.escape("model['temperature']='float'")):
        peakhold.CallbackList([], {"net": torch.nn.Linear(1, 1), "temperature": 0.5})


@pytest.mark.filterwarnings("ignore::peakhold.errors.AdviceWarning")
def test_models_with_get_weights_and_rates_of_their_own(tmp_path):
    class Model:
        def __init__(self):
            self.weights = [np.zeros(2)]

        def get_weights(self):
            return self.weights

        def set_weights(self, weights):
            self.weights = weights

    class Optimizer:
        learning_rate = 0.1

    models = {"a": Model(), "b": Model()}
    optimizers = {"a": Optimizer(), "b": Optimizer()}
    stopping = peakhold.EarlyStopping("loss", patience=1, restore_best_weights=True)
    plateau = peakhold.ReduceLROnPlateau("loss", factor=0.5, patience=1)
    callbacks = peakhold.CallbackList(
        [stopping, plateau], models, optimizer=optimizers, epochs=3, verbose=0
    )
    callbacks.on_train_begin()
    for epoch in range(3):
        callbacks.on_epoch_begin(epoch)
        for model in models.values():
            model.weights = [model.weights[0] + 1]
        callbacks.on_epoch_end(epoch, {"loss": 0.5 + epoch})
        if callbacks.stop_training:
            break
    callbacks.on_train_end()

    assert [model.weights[0].tolist() for model in models.values()] == [[1.0, 1.0]] * 2
    assert [one.learning_rate for one in optimizers.values()] == [0.05, 0.05]
    assert callbacks._peakhold_host.describe() == "Model"


class KerasGan:
    """Two models of Keras in a loop of one's own, each with an optimizer that nobody has built."""

    def __init__(self, callbacks, *, list_of=peakhold.CallbackList):
        import keras

        keras.utils.set_random_seed(0)
        self.ops = keras.ops
        self.models = {
            name: keras.Sequential([keras.Input((2,)), keras.layers.Dense(units)])
            for name, units in (("g", 3), ("d", 1))
        }
        self.optimizers = {
            "g": keras.optimizers.Adam(0.1), "d": keras.optimizers.SGD(0.1, momentum=0.9),
        }  # fmt: skip
        self.list = list_of(
            callbacks, model=self.models, optimizer=self.optimizers, epochs=5, verbose=0
        )

    def run(self, crash_in=None):
        self.list.on_train_begin()
        for epoch in range(self.list.initial_epoch, 5):
            self.list.on_epoch_begin(epoch)
            if epoch == crash_in:
                raise ZeroDivisionError
            for name, model in self.models.items():
                variables = model.trainable_variables
                gradients = [self.ops.convert_to_tensor(v) * 0.5 + epoch for v in variables]
                self.optimizers[name].apply(gradients, variables)
            self.list.on_epoch_end(epoch, {"loss": 1.0})
        self.list.on_train_end()
        return [
            array.tolist()
            for name, model in self.models.items()
            for array in (*model.get_weights(), *map(np.asarray, self.optimizers[name].variables))
        ]


@pytest.mark.parametrize("library", ["peakhold", "peakhold.keras"])
def test_models_and_optimizers_of_keras(tmp_path, library):
    lib = pytest.importorskip(library)

    def made(folder):
        return KerasGan(
            [lib.BackupAndRestore(folder), lib.ReduceLROnPlateau("loss", patience=2)],
            list_of=lib.CallbackList,
        )

    whole = made(tmp_path / "a").run()
    with pytest.raises(ZeroDivisionError):
        made(tmp_path / "b").run(crash_in=3)
    resumed = made(tmp_path / "b").run()

    assert resumed == whole
    assert len(whole) == 4 + 6 + 4
