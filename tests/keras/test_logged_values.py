"""What a loop logs is of its framework: copied where it lies, read when it is asked for."""

import math
import os
import time

import numpy as np
import pytest

import keras
from peakhold.errors import NotAScalarError
from peakhold.run import device_values
from peakhold.run.device_values import BLOCK
from peakhold.run.means import Means

BACKEND = keras.backend.backend()
on_jax = pytest.mark.skipif(BACKEND != "jax", reason="of JAX alone")
on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow alone")
ops = keras.ops


def number(value, dtype="float32"):
    return ops.convert_to_tensor(value, dtype=dtype)


DTYPES = ["float16", "bfloat16", "float32", "float64", "int8", "int32", "int64", "uint8", "bool"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("count", [1, 10, BLOCK, 7 * BLOCK + 5])
def test_each_dtype_keeps_its_values(dtype, shape, count):
    means = Means()
    value = ops.reshape(number(1 if dtype == "bool" else 3, dtype), shape)
    other = ops.reshape(number(0, dtype), shape)
    for batch in range(count):
        means.add({"m": value if batch % 2 else other}, 2)

    assert means.read() == {"m": (1 if dtype == "bool" else 3) * (count // 2) / count}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.1, 3e38, 1e-40])
def test_a_value_is_that_of_its_dtype_bit_for_bit(value):
    means = Means()
    means.add({"m": number(value), "n": number(value, "bfloat16")})
    read = means.read()

    expected = float(ops.convert_to_numpy(number(value)))
    assert read["m"] == expected or (math.isnan(read["m"]) and math.isnan(expected))
    if value == 0.1:
        assert read["n"] == 0.10009765625


def test_values_that_change_their_kind_come_to_the_sum_in_their_order():
    """Large and small numbers: another order would have other bits."""
    values = [1e16, 1.0, -1e16, 3.0, 1e8, 7.0] * (2 * BLOCK)
    kinds = [float, number, np.float32, lambda x: number(x, "float64"), keras.Variable]
    means, plain, total = Means(), Means(), 0.0
    for batch, value in enumerate(values):
        one = kinds[batch * batch % len(kinds)](value)
        held = one.value if isinstance(one, keras.Variable) else one
        exact = float(ops.convert_to_numpy(held))
        means.add({"m": one}, 3)
        plain.add({"m": exact}, 3)
        total += exact * 3

    assert means.read() == plain.read() == {"m": total / (3 * len(values))}


def test_variables_and_metrics_are_read_as_they_are_now():
    variable = keras.Variable(0.0, trainable=False)
    metric = keras.metrics.Mean()
    means = Means()
    for batch in range(2 * BLOCK + 1):
        variable.assign(batch)
        metric.reset_state()
        metric.update_state([batch, batch + 1])
        means.add({"variable": variable, "metric": metric.result(), "of it": variable.value})
    variable.assign(math.nan)

    assert means.read() == {"variable": BLOCK, "metric": BLOCK + 0.5, "of it": BLOCK}


@pytest.mark.parametrize("value", [[1.0, 2.0], [[]]], ids=["two", "none"])
def test_an_array_is_refused_where_it_is_logged(value):
    with pytest.raises(NotAScalarError, match="got loss="):
        Means().add({"loss": number(value)})


def test_a_symbolic_value_is_refused_with_what_to_do():
    means = Means()
    if BACKEND == "jax":
        import jax

        step = jax.jit(lambda x: means.add({"loss": x}))
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        step = tf.function(lambda x: means.add({"loss": x}))
    else:
        pytest.skip("PyTorch has none")
    # TensorFlow puts what comes up in its graphs into an error of its own, with the whole text.
    with pytest.raises(Exception, match=r"got loss=(.|\n)*Hint: return it from the compiled"):
        step(number(1.0))
    means.add({"loss": number(2.0)})

    assert means.read() == {"loss": 2.0}


def test_memory_does_not_grow_with_the_batches():
    """100,000 references would be some 200 MiB on JAX, some 60 on PyTorch."""

    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE")

    make = number
    if BACKEND == "jax":
        import jax

        make = jax.jit(lambda x: x + 1)
    elif BACKEND == "torch":
        import torch

        make = torch.tensor
    means = Means()

    def log(count):
        for _ in range(count):
            means.add({"loss": make(0.5)}, 32)

    log(20 * BLOCK)
    before = resident()
    log(100_000)

    assert resident() - before < 16 * 2**20
    assert math.isfinite(means.read()["loss"])


# JAX


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """No value is in this process's memory."""
    kind = device_values.jax_values.JaxRoll
    begin = kind.__init__

    def elsewhere(self, array):
        begin(self, array)
        self._in_memory = False

    monkeypatch.setattr(kind, "__init__", elsewhere)


@on_jax
def test_memory_that_a_step_is_given_is_copied_before():
    import jax

    step = jax.jit(lambda state: state + 1, donate_argnums=0)
    means, state = Means(), number(0.0)
    for _ in range(2 * BLOCK + 1):
        before = state
        state = step(state)
        means.add({"loss": state})
        assert before.is_deleted()
    step(state)

    assert means.read() == {"loss": BLOCK + 1}


def slow():
    """A function that its device is busy with for a long time, and its argument."""
    import jax

    def body(_, x):
        return jax.numpy.tanh(x @ x * 1e-3)

    compiled = jax.jit(lambda x: jax.lax.fori_loop(0, 20, body, x).sum())
    x = jax.numpy.ones((500, 500))
    compiled(x).block_until_ready()
    return compiled, x


@on_jax
def test_a_batch_does_not_wait_for_the_device(monkeypatch):
    compute, x = slow()
    began = time.perf_counter()
    compute(x).block_until_ready()
    takes = time.perf_counter() - began
    means = Means()
    for _ in range(3):
        means.add({"loss": compute(x)}, 2)  # compiles
    means.read()
    monkeypatch.setattr(device_values.jax_values, "_number", lambda _: pytest.fail("read"))
    losses = []
    logged = 0.0
    for _ in range(5):
        loss = compute(x)
        began = time.perf_counter()
        means.add({"loss": loss}, 2)
        logged += time.perf_counter() - began
        losses.append(loss)
    assert not losses[-1].is_ready()

    assert logged < takes
    assert means.read() == {"loss": float(losses[0])}


@on_jax
def test_not_even_a_full_block_waits(as_on_a_gpu, monkeypatch):
    """Of a device that is far behind nothing is ready until it is read."""
    sealed, read = device_values.jax_values._SealedArray, []
    numbers = sealed.numbers
    monkeypatch.setattr(sealed, "is_ready", lambda self: False)
    monkeypatch.setattr(sealed, "numbers", lambda self: read.append(1) or numbers(self))
    means = Means()
    for batch in range(8 * BLOCK + 100):
        means.add({"loss": number(batch)})
    assert read == []

    assert means.read() == {"loss": (8 * BLOCK + 99) / 2}
    assert len(read) == 9


@on_jax
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_dtype_is_copied_as_it_is(as_on_a_gpu, dtype):
    means, values = Means(), []
    for batch in range(2 * BLOCK + 3):
        value = number(batch % 2 if dtype == "bool" else batch % 100, dtype)
        values.append(value)
        means.add({"m": value, "one": value.reshape(1), "mixed": value if batch % 3 else 0.25})

    mean = sum(map(float, values)) / len(values)
    mixed = sum(float(v) if i % 3 else 0.25 for i, v in enumerate(values)) / len(values)
    assert means.read() == {"m": mean, "one": mean, "mixed": mixed}


@on_jax
def test_nothing_is_transferred_before_it_is_read():
    import jax

    means, value = Means(), number(0.5)
    with jax.transfer_guard_device_to_host("disallow_explicit"):
        for _ in range(8 * BLOCK):
            means.add({"loss": value})

    assert means.read() == {"loss": 0.5}


@on_jax
def test_an_array_on_several_devices_is_that_of_one():
    """In a process of its own: JAX counts its devices once."""
    import subprocess
    import sys

    program = """
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from peakhold.run.means import Means
mesh = Mesh(np.array(jax.devices()), "d")
whole = jax.device_put(np.float32(3), NamedSharding(mesh, PartitionSpec()))
other = jax.device_put(np.float32(5), jax.devices()[2])
means = Means()
for _ in range(300):
    means.add({"m": whole, "n": other})
    means.add({"m": other, "n": jax.numpy.float32(5)})
assert means.read() == {"m": 4.0, "n": 5.0}, means.read()
means.add({"key": jax.device_put(np.ones((1,), "float32"), NamedSharding(mesh, PartitionSpec()))})
assert means.read()["key"] == 1.0
"""
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


@on_jax
@pytest.mark.parametrize("kind", ["key", "complex"])
def test_what_is_no_number_of_jax_is_refused(kind):
    import jax

    value = jax.random.key(0) if kind == "key" else jax.numpy.complex64(1j)
    means = Means()
    with pytest.raises(NotAScalarError):
        means.add({"loss": value})
    means.add({"loss": number(1.0)})
    with pytest.raises(NotAScalarError):
        means.add({"loss": value})


@on_jax
def test_an_array_that_is_not_there_yet_is_refused_too(as_on_a_gpu):
    means = Means()
    means.add({"loss": number(1.0)})
    with pytest.raises(NotAScalarError):
        means.add({"loss": number([1.0, 2.0])})


@on_jax
def test_a_deleted_array_is_jax_s_own_error():
    value = number(1.0) + 1
    value.delete()
    with pytest.raises(RuntimeError, match="deleted"):
        Means().add({"loss": value})


# TensorFlow


@on_tensorflow
def test_a_variable_of_tensorflow_is_read_at_once():
    import tensorflow as tf

    variable, means = tf.Variable(0.0), Means()
    for _ in range(BLOCK + 1):
        variable.assign_add(1.0)
        means.add({"m": variable, "n": variable.value(), "tape": tf.reduce_sum(variable)})
    variable.assign(math.nan)

    assert means.read() == dict.fromkeys(("m", "n", "tape"), BLOCK / 2 + 1)


@on_tensorflow
@pytest.mark.parametrize("value", ["text", 1j])
def test_what_is_no_number_of_tensorflow_is_refused(value):
    import tensorflow as tf

    with pytest.raises(NotAScalarError):
        Means().add({"loss": tf.constant(value)})
