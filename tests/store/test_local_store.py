"""Our store under the kit that we ship."""

from peakhold.store import Reader, Store
from peakhold.testing import StoreTests


class TestLocalStore(StoreTests):
    def open_store(self, folder, **options):
        return Store(folder, **options)

    def open_reader(self, folder):
        return Reader(folder)


class TestReplacingStore(TestLocalStore):
    """The same contract with a second set of buffers; saves that follow fast may be replaced."""

    def open_store(self, folder, **options):
        return _Patient(Store(folder, when_busy="replace", **options))


class _Patient:
    """Waits after each save, so that none is replaced."""

    def __init__(self, store):
        self._store = store

    def __getattr__(self, name):
        return getattr(self._store, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self._store.__exit__(*error)

    def save(self, *args, **kwargs):
        pending = self._store.save(*args, **kwargs)
        pending.task.wait()
        return pending


class TestStoreWithoutBuffers(TestLocalStore):
    """The same contract when no snapshot fits: every save is written before it returns."""

    def open_store(self, folder, **options):
        return Store(folder, memory_limit=0, **options)
