"""What every test shares: a quiet TensorFlow, float32 to start from, a cache of the session's own, no stopwatch."""

import os
import sys

import hypothesis
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the command has it
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

# A machine that is busy for a moment fails no test.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory):
    """Keep the tests out of the user's cache of decoded images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUCLEI_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def fresh_policy():
    """Keep one test's precision out of the next: a run sets what is fast on its machine, bfloat16 on some."""
    reset_policy()
    yield
    reset_policy()


def reset_policy():
    if "keras" in sys.modules:
        sys.modules["keras"].mixed_precision.set_global_policy("float32")


@pytest.fixture
def eagerly():
    """TensorFlow without tracing: for a step or two, tracing takes longer than the steps."""
    import keras

    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
