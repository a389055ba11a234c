"""Kinds of loaders, and what is exact when a loop goes on inside an epoch of each.

The tests try each row, also where it says that something is not exact; the page
`docs/explanation/exact-inside-an-epoch.md` is made of it.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    WeightedRandomSampler,
    get_worker_info,
)

from kind_of_source import Kind, loaded

N_ROWS = 23


class Rows(Dataset):
    """Rows that know how often they were loaded, each with something random."""

    def __init__(self, draw=None):
        self.n_loaded = 0
        self.draw = draw or (lambda: torch.rand(2))

    def __len__(self):
        return N_ROWS

    def __getitem__(self, index):
        self.n_loaded += 1
        loaded()
        return index, self.draw()


class OwnGenerators(Rows):
    """Rows with random generators of their own."""

    def __init__(self):
        super().__init__(self._drawn)
        self.first = np.random.default_rng(3)
        self.others = {"legacy": np.random.RandomState(4), "python": random.Random(5)}
        self.torch = torch.Generator().manual_seed(6)

    def _drawn(self):
        return torch.tensor(
            [
                self.first.random(),
                self.first.integers(9, dtype=np.int32),  # leaves half a word behind
                self.others["legacy"].normal(),  # leaves another
                self.others["python"].gauss(),
                torch.rand((), generator=self.torch),
            ]
        )


class Stream(IterableDataset):
    """Rows in an order of their own, shuffled by Python."""

    def __iter__(self):
        order = list(range(N_ROWS))
        random.shuffle(order)
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for index in order[first::step]:
            loaded()
            yield index, torch.rand(2)


class Eager(Sampler):
    """Draws its order when its iterator is made: with workers, torch has it do so twice."""

    def __iter__(self):
        return iter(torch.randperm(N_ROWS).tolist())

    def __len__(self):
        return N_ROWS


class EagerBatches(Eager):
    def __iter__(self):
        order = torch.randperm(N_ROWS).tolist()
        return iter([order[at : at + 4] for at in range(0, N_ROWS, 4)])

    def __len__(self):
        return (N_ROWS + 3) // 4


class Epochs(Sampler):
    """An order by epoch, as `DistributedSampler` has it."""

    def __init__(self):
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        yield from np.random.default_rng(self.epoch).permutation(N_ROWS).tolist()

    def __len__(self):
        return N_ROWS


def seeded():
    return torch.Generator().manual_seed(5)


def loader(*args, **options):
    return lambda: DataLoader(
        Rows(), *(args or (4,)), **{key: made(one) for key, one in options.items()}
    )


def made(option):
    return option() if callable(option) else option


TORCH = (
    Kind("`DataLoader`", loader()),
    Kind("`shuffle=True`", loader(shuffle=True)),
    Kind("`shuffle=True, drop_last=True`", loader(shuffle=True, drop_last=True)),
    Kind("`shuffle=True, generator=g`", loader(shuffle=True, generator=seeded)),
    Kind("`batch_size=None`", loader(None, shuffle=True)),
    Kind(
        "`sampler=RandomSampler(..., replacement=True, generator=g)`",
        loader(sampler=lambda: RandomSampler(range(N_ROWS), True, 70, generator=seeded())),
    ),
    Kind(
        "`sampler=WeightedRandomSampler(...)`",
        loader(sampler=lambda: WeightedRandomSampler(np.arange(1, N_ROWS + 1), N_ROWS)),
    ),
    Kind("a sampler of your own", loader(sampler=Eager)),
    Kind("a sampler with `set_epoch`", loader(sampler=Epochs), sets_epochs=True),
    Kind(
        "`batch_sampler=`",
        loader(1, batch_sampler=lambda: BatchSampler(Eager(), 4, False)),
    ),
    Kind("a batch sampler of your own", loader(1, batch_sampler=EagerBatches)),
    Kind(
        "a data set with random generators of its own",
        lambda: DataLoader(OwnGenerators(), 4, shuffle=True),
    ),
    Kind("`num_workers=2`", loader(shuffle=True, num_workers=2), augmented=False),
    Kind("`num_workers=2`", loader(shuffle=True, num_workers=2), replay=True, loads=True),
    Kind(
        "`num_workers=2, generator=g`",
        loader(shuffle=True, num_workers=2, generator=seeded),
        augmented=False,
    ),
    Kind(
        "`num_workers=2`, a sampler that draws from `g` as it goes",
        loader(
            sampler=lambda: RandomSampler(range(N_ROWS), True, 70, generator=seeded()),
            num_workers=2,
        ),
        augmented=False,
    ),
    Kind(
        "`num_workers=2`, a batch sampler of your own",
        loader(1, batch_sampler=EagerBatches, num_workers=2),
        augmented=False,
    ),
    Kind(
        "`num_workers=2, persistent_workers=True`",
        loader(shuffle=True, num_workers=2, persistent_workers=True),
        augmented=False,
    ),
    Kind(
        "`num_workers=2, persistent_workers=True`",
        loader(shuffle=True, num_workers=2, persistent_workers=True),
        replay=True,
        loads=True,
        augmented=False,
    ),
    Kind("an `IterableDataset`", lambda: DataLoader(Stream(), 4), loads=True),
    Kind(
        "an `IterableDataset`, `num_workers=2`",
        lambda: DataLoader(Stream(), 4, num_workers=2),
        loads=True,
    ),
)


class Iterable:
    """An iterable without a length, shuffled by Python."""

    def __iter__(self):
        order = list(range(N_ROWS))
        random.shuffle(order)
        for index in order:
            loaded()
            yield index, np.random.rand(2)


class ByIndex:
    """What `for` walks by `__getitem__` alone."""

    def __len__(self):
        return N_ROWS

    def __getitem__(self, index):
        if index >= N_ROWS:
            raise IndexError
        loaded()
        return index, np.random.rand(2)


OTHERS = (
    Kind("a list, a tuple, a range", lambda: list(range(N_ROWS))),
    Kind("an array of NumPy", lambda: np.arange(N_ROWS * 2).reshape(N_ROWS, 2)),
    Kind("a tensor of PyTorch", lambda: torch.arange(N_ROWS)),
    Kind("an object with `__getitem__` alone", ByIndex),
    Kind("an iterable", Iterable, loads=True),
)


def _torchdata(*args, **options):
    def make():
        from torchdata.stateful_dataloader import StatefulDataLoader

        chosen = {key: made(one) for key, one in options.items()}
        return StatefulDataLoader(args[0]() if args else Rows(), 4, **chosen)

    return make


TORCHDATA = (
    Kind("`StatefulDataLoader(shuffle=True)`", _torchdata(shuffle=True)),
    Kind(
        "`StatefulDataLoader(shuffle=True, generator=g)`",
        _torchdata(shuffle=True, generator=seeded),
    ),
    Kind(
        "`StatefulDataLoader`, a data set with generators of its own",
        _torchdata(OwnGenerators, shuffle=True),
    ),
    Kind("`StatefulDataLoader`, an `IterableDataset`", _torchdata(Stream), loads=True),
    Kind(
        "`StatefulDataLoader`, a sampler of your own without `state_dict`",
        _torchdata(sampler=Eager),
        loads=True,
    ),
    Kind(
        "`StatefulDataLoader(num_workers=2)`",
        _torchdata(shuffle=True, num_workers=2),
        augmented=False,
    ),
    Kind(
        "`StatefulDataLoader(num_workers=2)`",
        _torchdata(shuffle=True, num_workers=2),
        replay=True,
        loads=True,
    ),
)
EVERY = (*TORCH, *OTHERS)
