"""Keras starts without the noise of its backend."""

import os
import resource
import subprocess
import sys

import pytest

from nuclei.settings.config import BadInput
from nuclei_kit.command import keras_start
from nuclei_kit.command.keras_start import check_limits, silence, start_keras, try_flags


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


NOT_FOUND = ModuleNotFoundError("No module named 'six.moves'", name="six.moves")
MEMORY = "end other programs, or use a machine with more memory"
ANEW = "pip install --force-reinstall"


@pytest.mark.parametrize(
    "backend, variables, error, mend",
    [
        ("torch", {}, ModuleNotFoundError("No module named 'torch'"), "pip install torch, or unset KERAS_BACKEND"),
        ("tensorflow", {}, NOT_FOUND, "pip install six"),
        ("tensorflow", {"XLA_FLAGS": "--x"}, NOT_FOUND, "pip install six"),
        ("torch", {}, ImportError("libcudnn.so.9:\n cannot open"), f"{ANEW} torch, or unset KERAS_BACKEND"),
        ("tensorflow", {}, KeyError("x"), f"{ANEW} tensorflow"),
        ("tensorflow", {"MPLBACKEND": "nope"}, ValueError("Key backend: 'nope' is not valid"), "unset MPLBACKEND"),
        ("tensorflow", {"MPLBACKEND": "inline"}, KeyError("x"), f"{ANEW} tensorflow"),
        ("jax", {"JAX_PLATFORMS": "cuda"}, AssertionError(), "unset JAX_PLATFORMS"),
        ("jax", {"JAX_PLATFORMS": "x", "XLA_FLAGS": "y"}, RuntimeError("backend 'x': no"), "unset JAX_PLATFORMS"),
        ("tensorflow", {"JAX_PLATFORMS": "cuda"}, AssertionError(), f"{ANEW} tensorflow"),
        ("tensorflow", {}, MemoryError(), MEMORY),
        ("torch", {}, OSError(12, "Cannot allocate memory"), MEMORY),
        ("tensorflow", {}, ImportError("x.so: failed to map segment from shared object"), MEMORY),
    ],
)
def test_a_backend_that_does_not_start_is_named_with_what_mends_it(monkeypatch, backend, variables, error, mend):
    class Refuse:
        def find_spec(self, name, *_):
            if name == "nuclei.network.device":
                raise error

    for name in ("XLA_FLAGS", "TF_XLA_FLAGS", "JAX_PLATFORMS", "MPLBACKEND"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"KERAS_BACKEND": backend, **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KERAS_HOME", "")  # so that it is as it was, afterwards
    monkeypatch.setattr(keras_start, "try_flags", lambda backend: None)
    monkeypatch.delitem(sys.modules, "nuclei.network.device", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refuse(), *sys.meta_path])
    with pytest.raises(BadInput) as caught:
        start_keras()
    said = str(caught.value)
    assert said.startswith(f"Keras does not start with {backend} ({type(error).__name__}") and "\n" not in said
    assert said.rpartition(": ")[2] == mend


@pytest.mark.parametrize("variable", ["XLA_FLAGS", "TF_XLA_FLAGS"])
def test_flags_at_which_xla_ends_the_process_are_named(monkeypatch, variable):
    noise = f"I0000 noise\nF0000 00:00 123 parse_flags_from_env.cc:234] Unknown flag in {variable}: --nonsense\n"
    for status, said in ((-6, noise), (1, noise)):
        done = subprocess.CompletedProcess([], status, "", said)
        monkeypatch.setattr(keras_start.subprocess, "run", lambda *_, done=done, **__: done)
        with pytest.raises(BadInput, match=rf"\(Unknown flag in {variable}: --nonsense\): unset {variable}$"):
            try_flags("jax")
    for status, said in ((0, noise), (1, "ModuleNotFoundError: No module named 'jax'")):  # the start itself says that
        done = subprocess.CompletedProcess([], status, "", said)
        monkeypatch.setattr(keras_start.subprocess, "run", lambda *_, done=done, **__: done)
        try_flags("jax")


@pytest.mark.slow  # a process that imports Keras
def test_xla_ends_the_process_at_a_flag_that_it_does_not_know(monkeypatch):
    monkeypatch.setenv("TF_XLA_FLAGS", "--nonsense")
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    with pytest.raises(BadInput, match=r"\(Unknown flag in TF_XLA_FLAGS: --nonsense\): unset TF_XLA_FLAGS$"):
        try_flags("tensorflow")


@pytest.mark.parametrize("kind, option", [(resource.RLIMIT_AS, "v"), (resource.RLIMIT_DATA, "d")])
def test_limits_of_memory_under_which_a_backend_crashes_are_refused(monkeypatch, kind, option):
    for limit in (resource.RLIM_INFINITY, 4 * 10**9):
        monkeypatch.setattr(resource, "getrlimit", lambda one, limit=limit: (limit, limit))
        check_limits()
    limits = {kind: 5 * 10**8}
    monkeypatch.setattr(resource, "getrlimit", lambda one: (limits.get(one, resource.RLIM_INFINITY), 0))
    with pytest.raises(BadInput, match=rf"ulimit -{option} leaves it 0\.5 GB .*: ulimit -{option} unlimited$"):
        check_limits()


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
