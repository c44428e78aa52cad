"""Device: what the run computes on, and in which precision."""

import resource
import sys
from pathlib import Path

import keras


def choose_precision() -> str:
    """Choose the Keras dtype policy, by name, that this machine trains fastest in.

    bfloat16 where the hardware multiplies it (CPUs with AVX512-BF16 or AMX, NVIDIA from compute capability 8.0 on),
    float16 on GPUs from 7.0 on (Kaggle's T4), else float32: a CPU without bfloat16 emulates it ten times slower.
    """
    capability = gpu_capability()
    if capability is not None:
        return "mixed_bfloat16" if capability >= 8 else "mixed_float16" if capability >= 7 else "float32"
    return "mixed_bfloat16" if {"avx512_bf16", "amx_bf16"} & _cpu_flags() else "float32"


def list_gpus() -> list[str]:
    """List the GPUs that Keras's backend sees by name; keras.distribution fails on JAX without one, and on torch."""
    return [name for name, _ in _gpus()]


def gpu_capability() -> float | None:
    """Find the compute capability of the first GPU that Keras sees; None where there is none."""
    for _, (major, minor) in _gpus()[:1]:
        return int(major) + int(minor) / 10
    return None


def _gpus():
    """List the GPUs as [(name, (major, minor) of the compute capability)]."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        ask = tf.config.experimental.get_device_details
        pairs = zip(tf.config.list_logical_devices("GPU"), tf.config.list_physical_devices("GPU"), strict=False)
        return [(gpu.name, ask(device).get("compute_capability", (0, 0))) for gpu, device in pairs]
    if keras.backend.backend() == "jax":
        import jax

        gpus = [device for device in jax.devices() if device.platform == "gpu"]
        return [(str(gpu), gpu.compute_capability.split(".")) for gpu in gpus]
    import torch

    numbers = range(torch.cuda.device_count())
    return [(torch.cuda.get_device_name(number), torch.cuda.get_device_capability(number)) for number in numbers]


def _cpu_flags():
    """Read the features that Linux lists for the CPU; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}


def peak_memory() -> float:
    """Tell the most memory that this process has held so far, in GB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)  # macOS counts bytes, Linux kilobytes
