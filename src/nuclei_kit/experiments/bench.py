"""Bench: how fast this machine reads, makes crops, trains and predicts, as one table."""

import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from nuclei.competition.data import TEST_NAMES, TRAIN_NAME
from nuclei.network.device import list_gpus, peak_memory
from nuclei.network.parallel import train_step
from nuclei.prediction.segmenter import Segmenter
from nuclei.settings.config import PRESETS, Config
from nuclei.training.train import compile_model, make_crops, new_model
from nuclei.training_data.batches import Crops
from nuclei_kit.files.reading import find_whole_set, read_images
from nuclei_kit.files.runs import load_run
from nuclei_kit.sample.sample import draw_sample

SECONDS = 8.0  # for each figure but the readings
PRODUCT_SIZES = {"CPU": 1024, "GPU": 8192}  # rows of the matrices whose product sets the mark
STEPS_AHEAD = 16  # steps of training between two waits for a loss, as in a run


def bench(run: Path | None = None, data: Path | None = None) -> str:
    """Measure this machine -> the lines of a table.

    Args:
        run: whose network predicts; None stands for the network that ships.
        data: a competition's folder; None draws a sample.
    """
    with tempfile.TemporaryDirectory() as scratch:
        if data is None:
            data = Path(scratch) / "sample"
            draw_sample(data)
        path, cache = find_whole_set(data, (TRAIN_NAME,)), Path(scratch) / "cache"
        cold, images = timed(lambda: read_images(path, cache))
        warm, _ = timed(lambda: read_images(path, cache))
        pictures = read_images(find_whole_set(data, TEST_NAMES[1])).images
        source = "a drawn sample" if data.is_relative_to(scratch) else data
    segmenter = load_run(run)
    peak = product_rate(SECONDS)
    config = PRESETS["cpu"]
    training = training_rates(config, make_crops(config, images), SECONDS)
    pace, pixels = prediction_rates(segmenter, pictures, SECONDS)
    count, share = len(images.ids), 3 * training.flop * training.ahead / peak  # a step is three forward passes
    rows = (
        ("matrix product", f"{peak / 1e9:,.0f} GFLOP/s"),
        ("training, crops made ahead", f"{training.ahead:.1f} images/s, {100 * share:.0f} % of that rate"),
        ("training, as a run", f"{training.as_run:.1f} images/s"),
        ("making crops", f"{crops_rate(make_crops(config, images), SECONDS):.0f} crops/s a core"),
        ("prediction", f"{1e6 / pixels:.3f} s a megapixel, {pace:.1f} images/s, {segmenter.config.tta_views} views"),
        ("reading, cold", f"{count / cold:.0f} images/s"),
        ("reading, warm", f"{count / warm:.0f} images/s"),
        ("peak memory", f"{peak_memory():.1f} GB"),
    )
    return "\n".join([machine(), f"images: {source}", "", *(f"{name:<28}{value}" for name, value in rows)])


def machine() -> str:
    """Name what computes: the processor, its cores, the backend and the precision."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    models = [line.split(": ", 1)[1] for line in lines if line.startswith("model name") and ": " in line]
    device = ", ".join(list_gpus()) or (models or [platform.processor() or platform.machine()])[0]
    policy = keras.mixed_precision.dtype_policy().name
    return f"{device}, {os.cpu_count()} cores, Keras {keras.__version__} on {keras.backend.backend()}, {policy}"


def timed(action: Callable) -> tuple[float, Any]:
    """Call once -> (seconds, what it returned)."""
    start = time.monotonic()
    result = action()
    return time.monotonic() - start, result


def rate(call: Callable, seconds: float, wait: Callable[[Any], object] = lambda result: result) -> float:
    """Call again and again for so many seconds -> calls a second; one call before them does not count.

    Args:
        wait: what waits for a result, of each STEPS_AHEAD-th call and of the last.
    """
    wait(call())
    start, calls = time.monotonic(), 0
    while calls < 2 or time.monotonic() - start < seconds:
        result = call()
        calls += 1
        if calls % STEPS_AHEAD == 0:
            wait(result)
    wait(result)
    return calls / (time.monotonic() - start)


def product_rate(seconds: float) -> float:
    """Measure a product of square matrices in the network's precision, FLOP/s."""
    size = PRODUCT_SIZES["GPU" if list_gpus() else "CPU"]
    product = compiled(lambda a: ops.matmul(a, a))
    a = ops.cast(keras.random.normal((size, size)), keras.mixed_precision.dtype_policy().compute_dtype)
    return 2 * size**3 * rate(lambda: product(a), seconds, lambda result: float(ops.cast(result[0, 0], "float32")))


def compiled(function: Callable) -> Callable:
    """Compile a function by the backend's own means."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    return function


@dataclass(frozen=True)
class TrainingRates:
    """How fast a network trains: images/s with crops `ahead`, and `as_run`, with crops made beside it.

    flop: of a forward pass of one crop; first_step: seconds, of compiling for the most part.
    """

    ahead: float
    as_run: float
    flop: float
    first_step: float


def training_rates(config: Config, crops: Crops, seconds: float) -> TrainingRates:
    """Train the network of a config for so long on one batch, and for so long as a run does."""
    bare = new_model(config)
    model = compile_model(bare, config)
    x, y = crops.batch(0)
    first_step, _ = timed(lambda: float(train_step(model, x, y)))
    ahead = rate(lambda: train_step(model, x, y), seconds, float)
    stream = crops.stream()
    as_run = rate(lambda: train_step(model, *next(stream)), seconds, float)
    stream.close()
    return TrainingRates(len(x) * ahead, len(x) * as_run, forward_flop(bare, config.train_crop), first_step)


def forward_flop(model: keras.Model, size: int) -> float:
    """Count the floating-point operations of a forward pass of one image of `size` px: its convolutions'."""
    fixed = keras.models.clone_model(model, input_tensors=keras.Input((size, size, 3)))
    flop = 0
    for layer in fixed.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Conv2DTranspose)):
            place = layer.input if isinstance(layer, keras.layers.Conv2DTranspose) else layer.output
            flop += 2 * place.shape[1] * place.shape[2] * int(np.prod(layer.kernel.shape))
    return float(flop)


def crops_rate(crops: Crops, seconds: float) -> float:
    """Make batches in one thread -> crops/s of its processor time, which other work on the machine hardly touches."""
    crops.batch(0)
    start, made = time.thread_time(), 0
    while time.thread_time() - start < seconds:
        made += len(crops.batch(made + 1)[0])
    return made / (time.thread_time() - start)


def prediction_rates(segmenter: Segmenter, images: list[np.ndarray], seconds: float) -> tuple[float, float]:
    """Find the nuclei of images, one after the other, for so long -> images/s, pixels/s; the first does not count."""
    segmenter.segment(images[0])
    start, done, pixels = time.monotonic(), 0, 0
    while time.monotonic() - start < seconds:
        image = images[done % len(images)]
        segmenter.segment(image)
        done, pixels = done + 1, pixels + image.shape[0] * image.shape[1]
    spent = time.monotonic() - start
    return done / spent, pixels / spent
