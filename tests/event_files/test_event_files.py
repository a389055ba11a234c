"""What is written is what `tf.summary` writes, as TensorBoard's own code reads it."""

import os
import signal
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from event_reader import array, files, float32, opened, raw_events, series, steps, tags, values
from peakhold.errors import InvalidArgumentError
from peakhold.tensorboard import EventWriter, crc32c, histogram
from peakhold.tensorboard.scalar import Line

# The sum


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (b"\0" * 32, 0x8A9136AA),  # RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_the_checksum_is_crc32c(data, expected):
    assert crc32c.crc32c(data) == expected


@pytest.mark.parametrize("size", [1023, 1024, 1025, 1040, 4095, 5000, 70001, 1 << 20])
def test_long_data_has_the_sum_of_its_pieces(size):
    data = np.random.default_rng(size).bytes(size)
    state = crc32c.START
    for at in range(0, size, 500):
        state = crc32c.update(state, data[at : at + 500])

    assert crc32c.update(crc32c.START, data) == state


@pytest.mark.parametrize("step", [0, 127, 128, 16383, 16384, 2**31, 2**63 - 1, -1])
@pytest.mark.parametrize("value", [0, -0.1, 3.4e38, float("nan"), float("-inf")])
def test_the_sum_of_a_point_is_that_of_its_bytes(value, step):
    """It is put together from tables; the bytes one after the other are what a reader sums."""
    rng = np.random.default_rng(abs(step) % 1000)
    line = Line("a tag")
    for wall_time in (0.0, -1.5, time.time(), *rng.uniform(0, 4e9, 20).tolist()):
        event, state = line.event(value, wall_time, step)

        assert state == crc32c.update(crc32c.START, event)


# Kinds


def written(folder, write):
    with EventWriter(folder) as writer:
        write(writer)
    return opened(folder)


def test_scalars_are_read_back(tmp_path):
    numbers = [0.1, -3, 1e-30, 7, float("inf"), 3.5e38, np.float64(0.7), np.float32(0.3)]
    reader = written(
        tmp_path, lambda w: [w.scalar("loss", x, i * 1000) for i, x in enumerate(numbers)]
    )

    with np.errstate(over="ignore"):
        assert series(reader, "loss") == [(i * 1000, x) for i, x in enumerate(float32(numbers))]
    assert np.isnan(written(tmp_path / "n", lambda w: w.scalar("x", float("nan"), 1)).Tensors("x")
                    and array(opened(tmp_path / "n").Tensors("x")[0]))  # fmt: skip


@pytest.mark.parametrize("step", [0, 1, 127, 128, 16384, 2**31, 2**40, -1])
def test_any_step_is_kept(step, tmp_path):
    reader = written(tmp_path, lambda w: w.scalar("loss", 1, step))

    assert steps(reader, "loss") == [step]


def test_a_point_has_the_time_that_was_asked_for(tmp_path):
    before = time.time()
    written(tmp_path, lambda w: (w.scalar("a", 1, 0, wall_time=12.5), w.scalar("b", 1, 0)))
    times = {v.tag: e.wall_time for e in raw_events(tmp_path) for v in e.summary.value}

    assert times["a"] == 12.5
    assert before <= times["b"] <= time.time()


@pytest.fixture
def tf():
    return pytest.importorskip("tensorflow")


def test_each_value_is_what_tensorflow_writes(tf, tmp_path):
    """Message for message, but for the bytes of a PNG, which are compared as an image."""
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(40, 50)).astype("float32")
    images = rng.uniform(-0.2, 1.2, size=(5, 4, 6, 3)).astype("float32")
    theirs = tf.summary.create_file_writer(str(tmp_path / "tf"))
    with theirs.as_default(3):
        tf.summary.scalar("scalar", 0.25)
        tf.summary.histogram("histogram", numbers)
        tf.summary.histogram("one value", np.full(5, 2.0))
        tf.summary.histogram("no value", np.zeros(0))
        tf.summary.text("text", "*some* text")
        tf.summary.image("image", images)
    theirs.close()
    with EventWriter(tmp_path / "ours") as ours:
        ours.scalar("scalar", 0.25, 3)
        ours.histogram("histogram", numbers, 3)
        ours.histogram("one value", np.full(5, 2.0), 3)
        ours.histogram("no value", np.zeros(0), 3)
        ours.text("text", "*some* text", 3)
        ours.image("image", images, 3)
    expected, got = values(tmp_path / "tf"), values(tmp_path / "ours")

    assert [step for step, _ in got] == [step for step, _ in expected] == [3] * 6
    assert [v.tag for _, v in got] == [v.tag for _, v in expected]
    for (_, one), (_, other) in zip(got, expected, strict=True):
        assert one.metadata == other.metadata
        if one.tag == "image":
            assert one.tensor.string_val[:2] == other.tensor.string_val[:2] == [b"6", b"4"]
            assert len(one.tensor.string_val) == len(other.tensor.string_val) == 2 + 3
            for mine, its in zip(one.tensor.string_val[2:], other.tensor.string_val[2:]):
                assert np.array_equal(tf.io.decode_png(mine), tf.io.decode_png(its))
        elif one.tag == "histogram":
            a, b = (np.frombuffer(v.tensor.tensor_content).reshape(-1, 3) for v in (one, other))
            assert np.array_equal(a[:, 2], b[:, 2]) and np.allclose(a, b, rtol=1e-14, atol=1e-15)
        elif one.tensor.tensor_content and other.tensor.tensor_content:
            assert one.tensor == other.tensor
        else:
            from tensorboard.util.tensor_util import make_ndarray

            assert np.array_equal(make_ndarray(one.tensor), make_ndarray(other.tensor))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "bool", "int64"])
def test_images_of_all_kinds_are_read_back(tf, channels, dtype, tmp_path):
    image = np.random.default_rng(1).integers(0, 2, size=(1, 5, 7, channels)).astype(dtype)
    reader = written(tmp_path, lambda w: w.image("i", image, 0))
    width, height, png = array(reader.Tensors("i")[0])

    assert (width, height) == (b"7", b"5")
    scale = 255 if dtype == "float32" else 1
    assert np.array_equal(tf.io.decode_png(png).numpy(), image[0].astype("float32") * scale)


def test_an_image_of_another_shape_is_refused(tmp_path):
    with (
        EventWriter(tmp_path / "new") as writer,
        pytest.raises(InvalidArgumentError, match="shape"),
    ):
        writer.image("i", np.zeros((5, 7)), 0)

    assert not (tmp_path / "new").exists()


def test_graphs_and_configurations_are_read_back(tf, tmp_path):
    graph = tf.Graph()
    with graph.as_default():
        tf.constant(1.0, name="one")
    metadata = tf.compat.v1.RunMetadata()
    metadata.partition_graphs.add().CopyFrom(graph.as_graph_def())

    def write(writer):
        writer.keras_model("keras", '{"a": 1}')
        writer.graph(graph.as_graph_def().SerializeToString())
        writer.run_metadata("batch_3", metadata.SerializeToString(), 3)

    reader = written(tmp_path, write)

    assert array(reader.Tensors("keras")[0]).item() == b'{"a": 1}'
    assert reader.SummaryMetadata("keras").plugin_data.plugin_name == "graph_keras_model"
    assert [node.name for node in reader.Graph().node] == ["one"]
    assert array(reader.Tensors("batch_3")[0]).item() == metadata.SerializeToString()
    plugin = reader.SummaryMetadata("batch_3").plugin_data.plugin_name
    assert plugin == "graph_run_metadata_graph"


# Histograms


def test_buckets_leave_out_what_is_no_number():
    values = np.array([1.0, np.nan, 2.0, np.inf, -np.inf, 4.0])

    assert np.array_equal(histogram(values, 3), histogram([1.0, 2.0, 4.0], 3))
    assert histogram(values, 3)[:, 2].sum() == 3
    assert not histogram([np.nan, np.inf]).any()


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int64", "float16", "float32", "float64", "bfloat16"]
)
def test_every_dtype_has_buckets(dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    values = np.array([0, 1, 1, 0, 1], dtype)

    assert histogram(values, 2).tolist() == [[0, 0.5, 2], [0.5, 1, 3]]


@pytest.mark.parametrize(
    "values",
    [
        [0.0, 5e-324],  # a range that thirty buckets cannot share
        [-1e308, 1e308],
        [1.0, np.nextafter(1.0, 2)],
        np.linspace(-1, 1, 100_003),
    ],
)
def test_every_value_is_in_a_bucket(values):
    assert histogram(values)[:, 2].sum() == len(values)


# Files


def test_nothing_is_made_before_the_first_event(tmp_path):
    writer = EventWriter(tmp_path / "run")
    writer.flush()
    writer.close()

    assert not (tmp_path / "run").exists()


def test_files_are_read_in_the_order_in_which_they_were_made(tmp_path):
    """Many within a second, and after one from a clock that is ahead."""
    ahead = tmp_path / f"events.out.tfevents.{int(time.time()) + 1000}.somebody.1.v2"
    ahead.touch()
    made = []
    for _ in range(12):
        with EventWriter(tmp_path) as writer:
            writer.scalar("a", 0, 0)
        made.append(os.path.basename(writer.path))

    assert files(tmp_path) == [ahead.name, *made]


def test_a_reader_sees_what_was_flushed(tmp_path):
    writer = EventWriter(tmp_path)
    writer.scalar("a", 1, 0)
    writer.flush()
    reader = opened(tmp_path)
    writer.scalar("a", 2, 1)
    writer.flush()
    reader.Reload()

    assert series(reader, "a") == [(0, 1.0), (1, 2.0)]
    writer.close()


def test_threads_may_share_a_writer(tmp_path):
    """Each writes its own line, while another one flushes: nothing is lost, torn or out of order."""
    writer, n, lines = EventWriter(tmp_path), 1000, "abc"
    writer.scalar("first", 0, 0)
    ended, interval = threading.Event(), sys.getswitchinterval()

    def write(tag):
        for step in range(n):
            writer.scalar(tag, step, step)

    def flush():
        while not ended.is_set():
            writer.flush()

    threads = [threading.Thread(target=write, args=(tag,)) for tag in lines]
    flusher = threading.Thread(target=flush)
    sys.setswitchinterval(1e-6)
    try:
        for thread in (flusher, *threads):
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
        ended.set()
        flusher.join()
    writer.close()
    reader = opened(tmp_path)

    assert {tag: steps(reader, tag) for tag in lines} == dict.fromkeys(lines, list(range(n)))


def in_a_process(code, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True,
        **options,
    )  # fmt: skip


def test_a_killed_process_loses_at_most_what_it_had_not_flushed(tmp_path):
    process = in_a_process(
        "import sys, time\n"
        "from peakhold.tensorboard import EventWriter\n"
        "writer = EventWriter(sys.argv[1])\n"
        "for step in range(5000): writer.scalar('a', step, step)\n"
        "writer.flush()\n"
        "print('flushed', flush=True)\n"
        "while True: step += 1; writer.scalar('a', step, step)\n",
        tmp_path,
    )
    assert process.stdout.readline() == "flushed\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = series(opened(tmp_path), "a")

    assert len(found) >= 5000
    assert found == [(step, float(step)) for step in range(len(found))]


def test_an_exception_loses_nothing(tmp_path):
    process = in_a_process(
        "import sys\n"
        "from peakhold.tensorboard import EventWriter\n"
        "writer = EventWriter(sys.argv[1])\n"
        "for step in range(10): writer.scalar('a', step, step)\n"
        "raise SystemExit(3)\n",
        tmp_path,
    )

    assert process.wait() == 3
    assert steps(opened(tmp_path), "a") == list(range(10))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_writes_nothing_twice(tmp_path):
    process = in_a_process(
        "import os, sys\n"
        "from peakhold.tensorboard import EventWriter\n"
        "writer = EventWriter(sys.argv[1])\n"
        "writer.scalar('a', 1, 1)\n"
        "if os.fork() == 0:\n"
        "    writer.scalar('a', 2, 2)\n"
        "    sys.exit(0)  # runs the child's clean-up\n"
        "os.wait()\n"
        "writer.close()\n",
        tmp_path,
    )

    assert process.wait() == 0
    assert steps(opened(tmp_path), "a") == [1]


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes there")
def test_a_full_disk_is_said_and_what_follows_can_be_read(tmp_path):
    """A limit on the file's size cuts a write in its middle, as a full disk does."""
    process = in_a_process(
        "import resource, signal, sys\n"
        "from peakhold.tensorboard import EventWriter\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "writer = EventWriter(sys.argv[1])\n"
        "for step in range(10): writer.scalar('a', step, step)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, limit))\n"
        "try: writer.flush()\n"
        "except OSError as error: print('refused', flush=True)\n"
        "writer.scalar('a', 10, 10)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "writer.close()\n",
        tmp_path,
    )

    assert process.wait() == 0
    assert process.stdout.read() == "refused\n"
    assert steps(opened(tmp_path), "a") == list(range(11))


def test_a_torn_end_is_passed_over(tmp_path):
    with EventWriter(tmp_path) as writer:
        for step in range(5):
            writer.scalar("a", step, step)
    with open(writer.path, "r+b") as file:
        file.truncate(os.path.getsize(writer.path) - 7)
    with EventWriter(tmp_path) as writer:
        writer.scalar("a", 4, 4)

    assert steps(opened(tmp_path), "a") == [0, 1, 2, 3, 4]


def test_a_record_has_the_framing_of_tfrecord(tmp_path):
    with EventWriter(tmp_path) as writer:
        writer.text("t", "x" * 5000, 0)
    with open(writer.path, "rb") as file:
        content, n = file.read(), 0
    while content:
        (size,) = struct.unpack_from("<Q", content)
        record = content[12 : 12 + size]
        for data, at in ((content[:8], 8), (record, 12 + size)):
            crc = crc32c.crc32c(data)
            rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
            (stored,) = struct.unpack_from("<I", content, at)
            assert stored == (rotated + 0xA282EAD8) % 2**32
        content, n = content[size + 16 :], n + 1

    assert n == 2
    assert tags(opened(tmp_path)) == {"t"}
