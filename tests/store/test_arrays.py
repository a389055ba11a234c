"""Every kind of array comes back bit for bit, and any safetensors reader opens the file."""

import array as stdlib_array
import pickle
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from peakhold.errors import InvalidArgumentError
from peakhold.snapshots.arrays import copy_of, source_of
from peakhold.store import RawTensor, Reader, Store

PLAIN = ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8", "c16"]
BIG_ENDIAN = [">u2", ">i4", ">i8", ">f2", ">f4", ">f8", ">c8", ">c16"]
ML = [name for name in dir(ml_dtypes) if name.startswith(("bfloat", "float", "int", "uint"))]
SAVED_ML = [
    name
    for name in ML
    if isinstance(getattr(ml_dtypes, name), type) and not name.endswith(("int1", "info"))
]


def round_trip(folder, value, **options):
    with Store(folder) as store:
        entry = store.save(1, {"part": {"x": value}}, **options).result()
    return Reader(folder).load(entry)["part"]["x"], entry.path / "part.safetensors"


def some(dtype, shape=(3, 4)):
    rng = np.random.default_rng(0)
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = rng.integers(0, 2 if np.dtype(dtype) == bool else 256, count, dtype=np.uint8)
    return raw.view(dtype).reshape(shape)


@pytest.mark.parametrize("immutable", [False, True])
@pytest.mark.parametrize("dtype", PLAIN + BIG_ENDIAN)
def test_numpy_dtypes(tmp_path, dtype, immutable):
    array = some(dtype)
    got, file = round_trip(tmp_path, array, immutable=immutable)
    little = array.astype(array.dtype.newbyteorder("<"))
    assert (got.dtype, got.shape) == (little.dtype, array.shape)
    assert got.tobytes() == little.tobytes()
    assert safetensors.numpy.load_file(file)["x"].tobytes() == little.tobytes()


@pytest.mark.parametrize("name", SAVED_ML)
def test_ml_dtypes(tmp_path, name):
    bits = 1 if name.startswith(("float4", "int4", "uint4", "int2", "uint2", "float6")) else 8
    array = (np.arange(12) % (2 if bits == 1 else 256)).astype(getattr(ml_dtypes, name))
    got, file = round_trip(tmp_path, array)
    assert got.dtype == array.dtype
    assert got.tobytes() == array.tobytes()
    assert safetensors.torch.load_file(file)["x"].numel() == 12


@pytest.mark.parametrize(
    "array",
    [
        np.float32(1.5),
        np.array(3, np.int64),
        np.zeros((0,), np.float32),
        np.zeros((3, 0, 2), np.int8),
        np.arange(24.0).reshape(4, 6)[::2, ::-3],
        np.arange(24.0).reshape(4, 6).T,
        np.broadcast_to(np.float32(2), (3, 3)),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([np.nan, -0.0, np.inf, -np.inf]),
    ],
    ids=["scalar", "0-dim", "empty", "empty-3d", "strided", "T", "broadcast", "fortran", "values"],
)
@pytest.mark.parametrize("immutable", [False, True])
def test_shapes_and_strides(tmp_path, array, immutable):
    got, _ = round_trip(tmp_path, array, immutable=immutable)
    assert (got.dtype, got.shape) == (array.dtype, array.shape)
    assert got.tobytes() == np.ascontiguousarray(array).tobytes()
    assert got.flags.writeable


TORCH = ["float32", "float64", "float16", "bfloat16", "int64", "uint8", "bool", "complex64",
         "complex128", "uint16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
         "float8_e5m2fnuz", "float8_e8m0fnu"]  # fmt: skip


@pytest.mark.parametrize("name", TORCH)
def test_torch(tmp_path, name):
    dtype = getattr(torch, name)
    size = torch.empty((), dtype=dtype).element_size()
    raw = torch.randint(0, 2 if name == "bool" else 100, (24 * size,), dtype=torch.uint8)
    for tensor in (raw.view(dtype).reshape(4, 6), raw.view(dtype)[3], raw.view(dtype)[::2]):
        got, file = round_trip(tmp_path, tensor)
        expected = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        assert (got.shape, got.tobytes()) == (tuple(tensor.shape), expected)
        if name != "complex128":  # stored as float64 pairs
            assert safetensors.torch.load_file(file)["x"].dtype == dtype


def test_torch_parameters_views_and_conjugates(tmp_path):
    parameter = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    conjugate = torch.tensor([1 + 2j, 3 - 4j]).conj()
    tree = {"p": parameter, "t": parameter.T, "c": conjugate, "n": (-torch.ones(2)).neg()}
    with Store(tmp_path) as store:
        store.save(1, {"part": tree}).result()
        got = store.load()["part"]
    for name, tensor in tree.items():
        np.testing.assert_array_equal(got[name], tensor.detach().resolve_conj().numpy())


@pytest.mark.parametrize("name", ["float32", "bfloat16", "int32", "bool", "complex64",
                                  "float8_e4m3fn", "uint8"])  # fmt: skip
def test_jax(tmp_path, name):
    array = jnp.arange(12).reshape(3, 4).astype(getattr(jnp, name))
    got, _ = round_trip(tmp_path, array)
    assert got.dtype == array.dtype
    assert got.tobytes() == np.asarray(array).tobytes()


class OnlyDLPack:
    """A library that is neither NumPy, PyTorch nor JAX."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack__(self, **kwargs):
        return self.tensor.__dlpack__()

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bfloat16])
def test_anything_with_dlpack(tmp_path, dtype):
    tensor = torch.arange(12).reshape(3, 4).to(dtype)[:, ::2]
    got, _ = round_trip(tmp_path, OnlyDLPack(tensor))
    np.testing.assert_array_equal(got.astype(np.float64), tensor.to(torch.float64).numpy())
    assert got.dtype.name == str(dtype)[6:]


@pytest.mark.parametrize(
    "value", [bytearray(b"abc"), memoryview(b"abcd"), stdlib_array.array("d", [1.5, 2.5])]
)
def test_anything_with_the_buffer_protocol(tmp_path, value):
    got, _ = round_trip(tmp_path, value)
    assert got.tobytes() == bytes(value)


@pytest.mark.parametrize("shape", [(3, 4), (0, 2), ()])
@pytest.mark.parametrize("name", [*PLAIN, *BIG_ENDIAN, *SAVED_ML])
def test_a_copy_is_stored_as_the_array_is(name, shape):
    dtype = np.dtype(getattr(ml_dtypes, name) if name in SAVED_ML else name)
    array = np.ones(shape, dtype).T
    source = source_of(array)
    copied = source_of(copy_of(source))

    assert (copied.dtype, copied.stored_as) == (source.dtype, source.stored_as)
    assert copied.array.shape == array.shape
    assert copied.array.tobytes() == array.tobytes()
    assert not np.shares_memory(copied.array, array)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e5m2", "float8_e3m4"])
def test_without_ml_dtypes_raw_tensors_come_back_and_can_be_saved_again(
    tmp_path, name, monkeypatch
):
    array = np.arange(6).reshape(2, 3).astype(getattr(ml_dtypes, name))
    with Store(tmp_path) as store:
        store.save(1, {"part": {"x": array}}).result()
        monkeypatch.setitem(sys.modules, "ml_dtypes", None)
        raw = store.load()["part"]["x"]
        assert isinstance(raw, RawTensor)
        assert (raw.shape, raw.buffer.tobytes()) == ((2, 3), array.tobytes())
        again = pickle.loads(pickle.dumps(raw))
        assert (again.dtype, again.shape, again.buffer) == (raw.dtype, raw.shape, raw.buffer)
        assert raw.name == name
        store.save(2, {"part": {"x": raw}}).result()
        monkeypatch.undo()
        again = store.load()["part"]["x"]
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)


def test_one_array_that_appears_twice_is_written_once_and_is_one_again(tmp_path):
    shared = np.ones((100, 100), np.float32)
    tied = torch.nn.Linear(50, 50)
    tree = {"a": shared, "b": [shared], "view": shared[:], "same values": shared.copy(),
            "w": tied.weight.data, "w again": tied.weight.detach(), "w.T": tied.weight.data.T}  # fmt: skip
    with Store(tmp_path) as store:
        entry = store.save(1, {"part": tree}).result()
        got = store.load(entry)["part"]
    assert got["a"] is got["b"][0] is got["view"]
    assert got["same values"] is not got["a"]
    assert got["w"] is got["w again"] and got["w"] is not got["w.T"]
    assert entry.nbytes < 2 * shared.nbytes + 2 * got["w"].nbytes + 4096


def test_names_that_meet_are_told_apart(tmp_path):
    tree = {
        "a": {"b": np.ones(1)},
        "a/b": np.zeros(2),
        "__metadata__": np.ones(3),
        "$x": np.ones(4),
    }
    with Store(tmp_path) as store:
        store.save(1, {"part": tree, "bare": np.arange(3)}).result()
        got = store.load()
        assert store.load_tensor(1, "part", "a/b#2").shape == (2,)
    assert {k: np.shape(v) for k, v in got["part"].items() if k != "a"} == {
        "a/b": (2,), "__metadata__": (3,), "$x": (4,)}  # fmt: skip
    np.testing.assert_array_equal(got["bare"], np.arange(3))


@pytest.mark.parametrize(
    ("value", "pattern"),
    [
        (np.array([object()]), "object"),
        (np.array(["text"]), "<U4"),
        (np.zeros(2, "M8[s]"), "datetime64"),
        (np.zeros(2, [("a", "i4")]), "void|a"),
        (np.ma.masked_array([1], [True]), "mask"),
        (torch.zeros(2, dtype=torch.uint8).view(torch.int4), "torch.int4"),
        (torch.empty(2, device="meta"), "meta"),
        (jax.random.key(0), "key_data"),
        (np.longdouble(1), "longdouble|float128"),
        (RawTensor("F77", (1,), memoryview(b"1")), "F77"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_cannot_be_saved_is_refused_by_its_path(tmp_path, value, pattern):
    with Store(tmp_path) as store:
        with pytest.raises(InvalidArgumentError, match=f"(?s)(?=.*({pattern})).*layers/3"):
            store.save(1, {"model": {"layers": [1, 2, 3, value]}})
        assert store.list() == []


def test_reading_one_tensor_reads_nothing_else(tmp_path):
    with Store(tmp_path) as store:
        entry = store.save(1, {"model": {"a": np.ones(5), "b": np.zeros(5)}}).result()
        data = bytearray((entry.path / "model.safetensors").read_bytes())
        data[-1] ^= 1  # in b
        (entry.path / "model.safetensors").write_bytes(data)
        np.testing.assert_array_equal(store.load_tensor(1, "model", "a"), np.ones(5))
        with pytest.raises(InvalidArgumentError, match=r"name='c'.*|'a', 'b'"):
            store.load_tensor(1, "model", "c")


def test_mapped_arrays_are_verified_and_read_only(tmp_path):
    with Store(tmp_path) as store:
        store.save(1, {"model": {"a": np.arange(5.0), "e": np.zeros((0, 2))}}).result()
        got = store.load(mmap=True)["model"]
    np.testing.assert_array_equal(got["a"], np.arange(5.0))
    assert got["e"].shape == (0, 2)
    assert not got["a"].flags.writeable


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    hnp.arrays(
        st.sampled_from([np.dtype(d) for d in PLAIN + BIG_ENDIAN]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    ),
    st.booleans(),
)
def test_any_array(tmp_path_factory, array, immutable):
    got, _ = round_trip(tmp_path_factory.mktemp("any"), array, immutable=immutable)
    np.testing.assert_array_equal(got, array)
    assert got.tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()
