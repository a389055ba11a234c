"""A user's script for `torchrun`: trains, is killed where it is told to, and goes on.

python torch_script.py FOLDER EPOCHS [RANK EPOCH WHEN]

`WHEN` is a batch of that epoch; or a fraction: so much of a tenth of a second after the last one,
which is in its exchange, its save, its backup or in the epoch that follows.
"""

import json
import os
import signal
import sys
import threading

import torch.distributed as dist
from torch_programs import Training, all_of_them, loop, seen

LAST = 2


def main(folder, epochs, *victim):
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    victim = [*map(float, victim)] if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" else None

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def perhaps_die(epoch, batch):
        if not victim or victim[:2] != [rank, epoch]:
            return
        if victim[2] == batch:
            die()
        elif victim[2] % 1 and batch == LAST:
            threading.Timer(victim[2] / 10, die).start()

    try:
        training, callbacks = Training(rank, size), all_of_them(folder)
        shown = loop(training, callbacks, int(epochs), on_batch=perhaps_die)
        result = {"shown": shown, "weights": training.state(), "seen": seen(callbacks)}
        result["attempt"] = os.environ["TORCHELASTIC_RESTART_COUNT"]
        with open(f"{folder}/rank-{rank}.json", "w") as file:
            json.dump(result, file)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
