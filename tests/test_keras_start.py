"""Keras starts without the noise of its backend."""

import os
import subprocess
import sys

import pytest

from nuclei.settings.config import BadInput
from nuclei_kit.command.keras_start import silence, start_keras


def test_silence_drops_what_goes_past_python_and_lets_errors_pass(capfd):
    os.write(2, b"before\n")
    with pytest.raises(ValueError, match="a bug"), silence():
        os.write(2, b"noise\n")
        raise ValueError("a bug")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\nafter\n"


@pytest.mark.parametrize("backend", ["theano", "cntk", "openvino", "TensorFlow"])
def test_a_backend_that_the_kit_does_not_know_is_named(monkeypatch, backend):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    with pytest.raises(
        BadInput, match=f"KERAS_BACKEND is '{backend}': set it to tensorflow, jax or torch, or unset it"
    ):
        start_keras()


@pytest.mark.parametrize(
    "error",
    [ModuleNotFoundError("No module named 'torch'"), ImportError("libcudnn.so.9:\n cannot open"), KeyError("x")],
)
def test_a_backend_that_does_not_start_is_named(monkeypatch, error):
    class Refuse:
        def find_spec(self, name, *_):
            if name == "nuclei.network.device":
                raise error

    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setenv("KERAS_HOME", "")  # so that it is as it was, afterwards
    monkeypatch.delitem(sys.modules, "nuclei.network.device", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refuse(), *sys.meta_path])
    with pytest.raises(BadInput, match=r"^Keras does not start with torch \(.*: pip install torch, or unset") as caught:
        start_keras()
    assert type(error).__name__ in str(caught.value) and "\n" not in str(caught.value)


KERAS_FILES = [
    '{"image_data_format": "channels_first", "floatx": "float16", "epsilon": 1e-3, "backend": "tensorflow"}',
    '{"image_dim_ordering": "th", "floatx": "float32", "epsilon": 1e-07, "backend": "theano"}',
    '["a list"]',
]


@pytest.mark.slow  # processes that import Keras
@pytest.mark.parametrize("content", [None, *KERAS_FILES], ids=["none", "channels first", "theano", "a list"])
def test_keras_starts_without_a_word_whatever_its_file_says(tmp_path, content):
    if content:
        (tmp_path / ".keras").mkdir()
        (tmp_path / ".keras/keras.json").write_text(content)
    script = "from nuclei_kit.command.keras_start import start_keras; start_keras(); from keras import config as c; "
    script += "print(c.backend(), c.image_data_format(), c.floatx(), c.epsilon())"
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "KERAS_"))}
    environ |= {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "tensorflow channels_last float32 1e-07\n", "")
    assert (tmp_path / ".keras").exists() == bool(content)  # none is written, either
