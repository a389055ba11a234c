"""Kinds of loaders of packages that get a process of their own, by package."""

from __future__ import annotations

from kind_of_source import Kind

N_ROWS = 23


def tensorflow():
    import tensorflow as tf

    def rows(then):
        def make():
            tf.random.set_seed(1)
            return then(tf.data.Dataset.range(N_ROWS))

        return make

    def augmented(row):
        return row, tf.random.uniform(())

    return (
        Kind("`tf.data.Dataset`", rows(lambda data: data.batch(4)), loads=True),
        Kind(
            "`shuffle(n)`", rows(lambda data: data.shuffle(9).map(augmented).batch(4)), loads=True
        ),
        Kind(
            "`shuffle(n, reshuffle_each_iteration=False)`",
            rows(lambda data: data.shuffle(9, reshuffle_each_iteration=False).batch(4)),
            loads=True,
        ),
        Kind(
            "`cache().shuffle(n)`, `prefetch`",
            rows(lambda data: data.cache().shuffle(9).map(augmented).batch(4).prefetch(2)),
            loads=True,
        ),
        Kind(
            "`shuffle(n).repeat(2)`",
            rows(lambda data: data.shuffle(9).repeat(2).map(augmented).batch(4)),
            loads=True,
        ),
    )


def grain():
    import grain
    from absl import flags

    flags.FLAGS.mark_as_parsed()

    class Augmented(grain.transforms.RandomMap):
        def random_map(self, element, rng):
            return int(element), float(rng.random())

    class Rows:
        def __len__(self):
            return N_ROWS

        def __getitem__(self, index):
            return (
                index  # not counted: Grain's threads load ahead, of an iterator that is gone, too
            )

        def __repr__(self):
            return "Rows()"  # Grain compares it with the one of the state

    def data():
        return grain.MapDataset.range(N_ROWS).shuffle(seed=3).random_map(Augmented(), seed=4)

    def loader():
        sampler = grain.samplers.IndexSampler(
            N_ROWS, shuffle=True, num_epochs=1, seed=3, shard_options=grain.sharding.NoSharding()
        )
        return grain.DataLoader(
            data_source=Rows(), sampler=sampler, operations=[Augmented()], worker_count=0
        )

    return (
        Kind("`grain.MapDataset`", data),
        Kind("`grain.IterDataset`", lambda: data().batch(4).to_iter_dataset()),
        Kind("`grain.DataLoader`", loader),
    )


def jax():
    import jax.numpy as jnp

    return (Kind("an array of JAX", lambda: jnp.arange(N_ROWS * 2).reshape(N_ROWS, 2)),)


def torchdata():
    from source_kinds import TORCHDATA

    return TORCHDATA


ELSEWHERE = {"torchdata": torchdata, "tensorflow": tensorflow, "grain": grain, "jax": jax}
