"""What every test shares: which backend this process is for, and torch before TensorFlow."""

import os
import signal

import pytest

pytest.register_assert_rewrite("behaviours", "keras_helpers")

BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")
if BACKEND == "torch":
    import torch

    torch.set_num_threads(1)


# A shell starts background jobs with SIGINT ignored, which Peakhold respects: the tests of Ctrl-C
# need it as a terminal has it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _same_seed_everywhere(request):
    """Tests of Keras draw the same numbers whatever ran before them."""
    folders = {"keras", "programs"}
    if folders & set(request.path.parts):
        import keras

        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(7)
