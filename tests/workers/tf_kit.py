"""The kits on TensorFlow's channel: a process has one cluster, so all tests are run in one.

Each process of it goes through the same tests in the same order; keys have the test's number before
them, and a worker that a test has no place for waits for the next.
"""

import inspect
import traceback

from tf_programs import ended_together, join

from peakhold.distributed import finding, tf_service
from peakhold.testing import ChannelTests, CoordinatorTests


class Numbered:
    """A channel that is one test's own."""

    def __init__(self, channel, number, size):
        self._channel, self._number = channel, number
        self.rank, self.size, self.attempt = channel.rank, size, f"{number}"

    def set(self, key, value):
        self._channel.set(f"{self._number}/{key}", value)

    def replace(self, key, value):
        self._channel.replace(f"{self._number}/{key}", value)

    def get(self, key, seconds):
        return self._channel.get(f"{self._number}/{key}", seconds)

    def delete(self, keys):
        self._channel.delete([f"{self._number}/{key}" for key in keys])

    def another(self):
        return Numbered(self._channel.another(), self._number, self.size)

    def close(self):
        pass


def run_kits(rank, ports):
    join(rank, ports)
    channel = finding._channel_of("tensorflow")
    assert type(channel) is tf_service.TensorFlowChannel
    assert (channel.rank, channel.size) == (rank, len(ports))
    passed, failed, number = 0, [], 0
    for kit in (ChannelTests, CoordinatorTests):
        for name, _ in inspect.getmembers(kit, inspect.isfunction):
            if not name.startswith("test_"):
                continue
            number += 1
            try:
                getattr(Here(kit, channel, number).kit, name)()
                passed += 1
            except Exception:
                failed.append([name, traceback.format_exc()])
    ended_together(rank, len(ports))
    return {"passed": passed, "failed": failed}


class Here:
    """A kit whose work this process does as one of its workers; results go to all."""

    def __init__(self, kit, channel, number):
        import pickle

        class Kit(kit):
            def run(self, size, work):
                result = None
                if channel.rank < size:
                    try:
                        result = work(Numbered(channel, number, size))
                    except Exception as error:
                        result = error
                channel.set(f"results/{number}/{channel.rank}", pickle.dumps(result))
                return [
                    pickle.loads(channel.get(f"results/{number}/{rank}", 60.0))
                    for rank in range(size)
                ]

        self.kit = Kit()
