"""What every test shares: a quiet TensorFlow, and a cache of the session's own."""

import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory):
    """Keep the tests out of the user's cache of decoded images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUCLEI_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
