"""Device: what the run computes on, and in which precision."""

import resource
import sys
from pathlib import Path

import keras


def choose_precision():
    """The Keras dtype policy that this machine trains fastest in, by name.

    "mixed_bfloat16" where the hardware multiplies bfloat16 (CPUs with AVX512-BF16 or AMX, NVIDIA from compute
    capability 8.0 on), "mixed_float16" on GPUs from 7.0 on (Kaggle's T4), else "float32": a CPU without bfloat16
    emulates it ten times slower.
    """
    capability = gpu_capability()
    if capability is not None:
        return "mixed_bfloat16" if capability >= 8 else "mixed_float16" if capability >= 7 else "float32"
    return "mixed_bfloat16" if {"avx512_bf16", "amx_bf16"} & _cpu_flags() else "float32"


def list_gpus():
    """The names of the GPUs that Keras's backend sees; keras.distribution fails on JAX without one, and on torch."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
    if keras.backend.backend() == "jax":
        import jax

        return [str(device) for device in jax.devices() if device.platform == "gpu"]
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def gpu_capability():
    """The compute capability of the first GPU that Keras sees, or None where there is none."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        ask = tf.config.experimental.get_device_details
        capability = ask(gpus[0]).get("compute_capability", (0, 0)) if gpus else None
    elif keras.backend.backend() == "jax":
        import jax

        gpus = [device for device in jax.devices() if device.platform == "gpu"]
        capability = map(int, gpus[0].compute_capability.split(".")) if gpus else None
    else:
        import torch

        capability = torch.cuda.get_device_capability(0) if torch.cuda.is_available() else None
    if capability is None:
        return None
    major, minor = capability
    return major + minor / 10


def _cpu_flags():
    """The features that Linux lists for the CPU; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return set()
    flags = [line for line in info.read_text().splitlines() if line.startswith("flags")]
    return set(flags[0].split()) if flags else set()


def peak_memory():
    """The most memory that this process has held so far, in GB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)  # macOS counts bytes, Linux kilobytes
