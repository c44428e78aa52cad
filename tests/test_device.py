"""Device: the precision that each kind of hardware gets, by faked hardware, and the peak of memory."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from nuclei.network import device


@pytest.mark.parametrize(
    ("capability", "flags", "policy"),
    [
        (None, set(), "float32"),
        (None, {"sse4_2", "avx2", "avx512f"}, "float32"),
        (None, {"avx512f", "avx512_bf16"}, "mixed_bfloat16"),
        (None, {"amx_bf16"}, "mixed_bfloat16"),
        (6.0, set(), "float32"),  # P100
        (7.0, set(), "mixed_float16"),  # V100
        (7.5, set(), "mixed_float16"),  # T4
        (8.0, set(), "mixed_bfloat16"),  # A100
        (9.0, set(), "mixed_bfloat16"),  # H100
        (6.0, {"amx_bf16"}, "float32"),  # the GPU counts, whatever the CPU could do
        (0.0, {"amx_bf16"}, "float32"),  # a GPU that names no capability
    ],
)
def test_precision_by_hardware(monkeypatch, capability, flags, policy):
    monkeypatch.setattr(device, "gpu_capability", lambda: capability)
    monkeypatch.setattr(device, "_cpu_flags", lambda: flags)
    assert device.choose_precision() == policy


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="asks TensorFlow")
@pytest.mark.parametrize(
    ("gpus", "details", "capability"),
    [
        ([], None, None),
        (["a T4"], {"compute_capability": (7, 5)}, 7.5),
        (["an H100"], {"compute_capability": (9, 0)}, 9.0),
        (["no NVIDIA"], {"device_name": "other"}, 0.0),
    ],
)
def test_capability_as_tensorflow_tells_it(monkeypatch, gpus, details, capability):
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [SimpleNamespace(name=gpu) for gpu in gpus])
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    assert device.gpu_capability() == capability
    assert device.list_gpus() == gpus


def test_the_policy_of_this_machine_is_what_its_cpu_multiplies():
    if device.list_gpus():
        pytest.skip("the CPU counts where there is no GPU")
    cpu = Path("/proc/cpuinfo")
    multiplies = cpu.is_file() and re.search(r"\b(avx512_bf16|amx_bf16)\b", cpu.read_text())
    assert device.choose_precision() == ("mixed_bfloat16" if multiplies else "float32")


@pytest.mark.slow  # it fills memory beyond all that TensorFlow held
def test_peak_memory_grows_with_what_is_held_and_stays():
    before = device.peak_memory()
    assert 0 < before < 1000
    held = np.ones(int((before + 0.2) * 1e9), np.uint8)  # more than the process ever held
    grown = device.peak_memory()
    assert grown > before + 0.15
    del held
    assert device.peak_memory() >= grown


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_every_backend_lists_its_gpus(backend):
    """Where there is none, too: as many as there are exactly if the first has a capability."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    script = "from nuclei.network.device import gpu_capability, list_gpus\n"
    script += "print(any(list_gpus()) == (gpu_capability() is not None))"
    environ = os.environ | {"KERAS_BACKEND": backend}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="on JAX Keras's own list fails without a GPU")
def test_as_many_gpus_are_listed_as_keras_lists():
    assert len(device.list_gpus()) == len(keras.distribution.list_devices("gpu"))
