"""A loop over a shuffling loader with workers that keeps its position in a store, and is killed."""

import os
import signal
import sys

import torch

from peakhold.run.sources import source_for
from peakhold.store import Store
from source_rig import draws, plain, seed

EPOCH, BATCH = 1, 3


def main(mode, folder):
    from source_kinds import Rows, seeded

    seed()
    loader = torch.utils.data.DataLoader(Rows(), 4, shuffle=True, num_workers=2, generator=seeded())
    source, state = source_for(loader, replay=True), None
    if mode == "again":
        with Store(folder) as store:
            state = store.load("latest")["source"]
    for epoch in range(EPOCH if state else 0, 3):
        goes_on = state is not None and epoch == EPOCH
        batches = source.go_on(state, epoch) if goes_on else source.begin(epoch)
        for number, batch in enumerate(batches, BATCH if goes_on else 0):
            print(epoch, plain(batch), draws(), flush=True)
            if mode == "killed" and (epoch, number + 1) == (EPOCH, BATCH):
                with Store(folder) as store:
                    store.save(1, {"source": source.state()}).result()
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
