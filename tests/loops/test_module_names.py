"""What wraps a model changes no name in a file, and a model that was wrapped loads unwrapped."""

import pytest
import torch
from safetensors.torch import load_file

import peakhold
from kinds_of_state import ChildCalledModule, InnerCompiled, frozen, same
from peakhold.host.module_names import ModuleNames
from peakhold.store import Store


def net():
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 1))


def compiled(model):
    return torch.compile(model, backend="eager")


WRAPPED = {
    "plain": lambda model: model,
    "compiled": compiled,
    "parallel": torch.nn.DataParallel,
    "compiled, parallel": lambda model: torch.nn.DataParallel(compiled(model)),
    "parallel, compiled": lambda model: compiled(torch.nn.DataParallel(model)),
}


def run(model, folder, epochs, callbacks=()):
    backup = peakhold.BackupAndRestore(folder)
    loop = peakhold.CallbackList([backup, *callbacks], model, epochs=9, verbose=0)
    loop.on_train_begin()
    for epoch in range(backup.initial_epoch, epochs):
        loop.on_epoch_begin(epoch)
        with torch.no_grad():
            for tensor in model.parameters():
                tensor += epoch + 1
        loop.on_epoch_end(epoch, {"loss": 1.0})
    loop.on_epoch_begin(epochs)
    return loop


@pytest.mark.parametrize("after", WRAPPED)
@pytest.mark.parametrize("before", WRAPPED)
def test_either_loads_into_either(before, after, tmp_path):
    bare = net()
    path = str(tmp_path / "m.safetensors")
    run(WRAPPED[before](bare), tmp_path / "backup", 2, [peakhold.ModelCheckpoint(path)])
    fresh = net()
    run(WRAPPED[after](fresh), tmp_path / "backup", 2)
    same(fresh.state_dict(), bare.state_dict())
    third = net()
    third.load_state_dict(load_file(path))
    same(third.state_dict(), bare.state_dict())


@pytest.mark.parametrize("live", WRAPPED)
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "module._orig_mod."])
def test_older_backups_hold_the_wrappers_names(live, prefix, tmp_path):
    kept = {f"{prefix}{name}": tensor + 1 for name, tensor in net().state_dict().items()}
    with Store(tmp_path) as store:
        store.save(1, {"model": kept}).result()
        model = net()
        peakhold.give_back(store.load(1)["model"], WRAPPED[live](model))
    assert list(model.state_dict().values())[0].equal(next(iter(kept.values())))


def test_a_child_of_that_name_is_no_wrapper():
    model = ChildCalledModule()
    names = ModuleNames(model)
    assert list(names.to_plain(model.state_dict())) == ["module.weight", "module.bias"]
    wrapped = torch.nn.DataParallel(model)
    plain = ModuleNames(wrapped).to_plain(wrapped.state_dict())
    assert list(plain) == ["module.weight", "module.bias"]
    assert plain._metadata == wrapped.state_dict()._metadata


def test_a_child_may_be_compiled_alone():
    model = InnerCompiled()
    assert list(ModuleNames(model).to_plain(model.state_dict())) == ["net.weight", "net.bias"]


def test_best_weights_have_the_names_that_the_model_takes():
    model = compiled(net())
    keeper = peakhold.EarlyStopping("m", mode="min", restore_best_weights=True, patience=3)
    loop = peakhold.CallbackList(keeper, model, epochs=2, verbose=0)
    loop.on_train_begin()
    loop.on_epoch_begin(0)
    loop.on_epoch_end(0, {"m": 1.0})
    kept = frozen(model.state_dict())
    with torch.no_grad():
        next(iter(model.parameters())).zero_()
    model.load_state_dict(keeper.best_weights)
    same(model.state_dict(), kept)
