"""Train: one network inside a time budget, its best weights, and the thresholds that go with them."""

import csv
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import keras
import numpy as np
from tqdm import tqdm

from nuclei.batches import Crops
from nuclei.config import LOG, WEIGHTS, log
from nuclei.device import gpu_capability
from nuclei.inference import fit_zoom, predict_probs
from nuclei.loss import weighted_crossentropy_dice
from nuclei.metric import average_precision
from nuclei.model import build_model
from nuclei.parallel import predict_step, share_gpus, shared_loss, train_step
from nuclei.tta import VIEWS
from nuclei.watershed import Thresholds, find_instances

EPOCH = 64  # steps between two lines of the log
TRIAL_MINUTES = 10.0  # of training and more: then trying out two ways to compile pays
TUNING_SHARE = 0.08  # of the time budget, kept for choosing thresholds at the end

# What `tune_thresholds` tries, field by field, in this order.
THRESHOLD_CHOICES = {
    "seed": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    "interior": (0.4, 0.5, 0.58, 0.66, 0.74),
    "area": (16.0, 32.0, 64.0, 96.0, 128.0),
    "seed_area": (4.0, 8.0, 16.0, 32.0, 48.0),
    "confidence": (0.0, 0.7, 0.8, 0.85, 0.9),
}


def new_model(config):
    """The network that a config describes, with fresh weights: three outputs, see targets."""
    return build_model(config.model_name, config.model_width, config.model_depth, config.model_stem, outputs=3)


def compile_model(model, config, batch):
    """Readies a network for training -> a compiled Model of its layers and weights; its learning rate is 0 so far.

    Keras compiles with XLA by default, which is the faster way on a CPU with AVX2 and float32; one that multiplies
    bfloat16 may do better without. So where the time is the user's and there is plenty of it, TensorFlow on a CPU tries
    both ways on one batch, which at a rate of 0 changes no weight. A run that counts steps tries nothing: it must go
    the same way each time.
    """

    def compiled(jit):
        one = keras.Model(model.input, model.output, name=model.name)
        optimizer = keras.optimizers.AdamW(0.0, weight_decay=config.train_decay, global_clipnorm=1.0)
        one.compile(optimizer, shared_loss(weighted_crossentropy_dice), jit_compile=jit)
        one.optimizer.build(one.trainable_variables)
        return one

    on_cpu = keras.backend.backend() == "tensorflow" and gpu_capability() is None
    if config.train_steps or config.train_minutes < TRIAL_MINUTES or not on_cpu:
        return compiled("auto")
    ways = [compiled(True), compiled(False)]
    seconds = [_seconds_per_step(way, batch) for way in ways]
    log.info("a step takes %.2f s with XLA, %.2f s without", *seconds)
    return ways[int(np.argmin(seconds))]


def _seconds_per_step(model, batch):
    """The median of three steps of training; a first one compiles."""
    train_step(model, *batch)
    times = []
    for _ in range(3):
        start = time.monotonic()
        train_step(model, *batch)
        times.append(time.monotonic() - start)
    return float(np.median(times))


def learning_rate(progress, peak, warmup):
    """The rate at `progress` (0..1) of the schedule: linear up to `peak` in its first `warmup`, then cosine to 0."""
    if progress < warmup:
        return peak * (progress + 1e-3) / (warmup + 1e-3)
    return peak * 0.5 * (1 + np.cos(np.pi * min((progress - warmup) / (1 - warmup), 1.0)))


class _Schedule:
    """How far the training is, 0..1, by the clock or by steps.

    By the clock, progress counts from the end of the first step, which compiles the network; whatever the speed of
    the machine, and should it change on the way, the rate reaches zero when the time is up.
    """

    def __init__(self, minutes, steps):
        self.steps = steps
        self.deadline = time.monotonic() + minutes * 60 * (1 - TUNING_SHARE)
        self.start = None

    def progress(self, step):
        if self.steps:
            return step / self.steps
        now = time.monotonic()
        if self.start is None:
            self.start = now
        return min((now - self.start) / max(self.deadline - self.start, 1e-9), 1.0)


def train_model(config, train, tuning, folder, on_better):
    """Trains a new network -> (model with its best weights, Thresholds, how many crops it saw).

    Writes into `folder` as it goes: model.weights.h5 (the weights that scored best on the tuning images, replaced
    atomically) and log.csv (a row an epoch).

    Args:
        config: a Config.
        train: ImageSet with labels, to learn from.
        tuning: ImageSet with labels, to choose weights and thresholds on; where it is empty the last weights and the
            default thresholds are kept.
        folder: an existing Path.
        on_better: called with (network, Thresholds) on the way, when the weights are the best so far.
    """
    keras.utils.set_random_seed(config.train_seed)
    schedule = _Schedule(config.train_minutes, config.train_steps)
    crops = Crops(train.images, train.labels, train.kinds, config)
    with share_gpus(config.train_batch, config.tile_batch):
        bare = new_model(config)  # shares its weights with `model`, and saves them without the optimiser's state
        model = compile_model(bare, config, crops.batch(0))
    network = partial(predict_step, model)
    weights_file = folder / WEIGHTS
    checks = np.arange(1, config.train_checks + 1) / config.train_checks if tuning.ids else np.empty(0)
    best, done = -1.0, 0.0
    with _Journal(folder / LOG) as journal:
        for step, (x, y) in enumerate(crops.stream(), start=1):
            rate = learning_rate(done, config.train_rate, config.train_warmup)
            model.optimizer.learning_rate = rate
            loss = train_step(model, x, y)
            done = schedule.progress(step)
            score = None
            if checks.size and done >= checks[0]:
                checks = checks[checks > done]
                score = score_set(tuning, network, Thresholds(), config)
                if score > best:
                    best = score
                    save_weights(bare, weights_file)
                    if done < 1:
                        on_better(network, Thresholds())
            journal.note(step, done, rate, loss, score)
            if done >= 1:
                break
    crops_seen = step * config.train_batch
    if best < 0:
        save_weights(bare, weights_file)
        return model, Thresholds(), crops_seen
    bare.load_weights(weights_file)
    return model, tune_thresholds(tuning, network, config), crops_seen


class _Journal:
    """What a training says of itself: log.csv, a live bar in a terminal, and elsewhere one line an epoch."""

    def __init__(self, path):
        self.path = path
        self.losses = []

    def __enter__(self):
        self.started = time.monotonic()
        self.file = open(self.path, "w", newline="", encoding="utf-8")
        self.table = csv.writer(self.file, lineterminator="\n")
        self.table.writerow(["step", "seconds", "learning_rate", "loss", "tuning_score"])
        line = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
        self.bar = tqdm(total=100, desc="train", disable=None, bar_format=line)
        return self

    def note(self, step, done, rate, loss, score):
        """Takes one step's figures; every EPOCH steps, at a score and at the end it writes them down."""
        self.losses.append(loss)
        self.bar.update(int(100 * done) - self.bar.n)
        if len(self.losses) < EPOCH and score is None and done < 1:
            return
        seconds = time.monotonic() - self.started
        mean = np.mean(self.losses)
        scored = "" if score is None else f"{score:.4f}"
        self.table.writerow([step, f"{seconds:.1f}", f"{rate:.3g}", f"{mean:.4f}", scored])
        self.file.flush()
        self.bar.set_postfix_str(f"loss {mean:.3f}")
        if self.bar.disable or score is not None:
            note = f", tuning score {scored}" if scored else ""
            log.info("%.0f s, step %d, %.0f %%, loss %.4f%s", seconds, step, 100 * done, mean, note)
        self.losses = []

    def __exit__(self, *error):
        self.bar.close()
        self.file.close()


def save_weights(model, path):
    """Writes the weights as HDF5, whole or not at all."""
    temporary = path.with_name("writing.weights.h5")  # Keras insists on the ending
    model.save_weights(temporary)
    os.replace(temporary, path)


def segment(image, network, thresholds, config, views=None):
    """uint8 (H, W, 3) -> labels int32 (H, W): scale, probabilities, instances."""
    probs, zoom = segment_probs(image, network, thresholds, config, views)
    return find_instances(probs, thresholds, zoom)


def segment_probs(image, network, thresholds, config, views=None):
    """uint8 (H, W, 3) -> (probs float32 (H, W, 3), the zoom that fits its nuclei). `views` stands in for config's."""
    tiles = (config.tile_size, config.tile_overlap, config.tile_batch)
    zoom = fit_zoom(image, network, thresholds, config.model_diameter, *tiles)
    zooms = tuple(zoom * factor for factor in config.tta_zooms)
    return predict_probs(image, network, *tiles, VIEWS[: views or config.tta_views], zooms), zoom


def score_set(images, network, thresholds, config):
    """The mean average precision over an ImageSet with labels, from a single view: quick, for choosing weights."""
    scores = [
        average_precision(truth, segment(image, network, thresholds, config, views=1))
        for image, truth in zip(images.images, images.labels, strict=True)
    ]
    return float(np.mean(scores))


def tune_thresholds(images, network, config):
    """The Thresholds that score best on an ImageSet with labels: one field at a time."""
    predicted = [segment_probs(image, network, Thresholds(), config, views=2) for image in images.images]
    cases = list(zip(images.labels, predicted, strict=True))

    def score(thresholds):
        def score_one(case):
            truth, (probs, zoom) = case
            return average_precision(truth, find_instances(probs, thresholds, zoom))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.mean(list(pool.map(score_one, cases)))

    # A network that is never sure finds nothing by the default confidence, whatever else is tried: begin without.
    best = max(replace(Thresholds(), confidence=0.0), Thresholds(), key=score)
    best_score = score(best)
    for name, choices in THRESHOLD_CHOICES.items():
        for choice in choices:
            if choice == getattr(best, name):
                continue
            candidate = replace(best, **{name: choice})
            candidate_score = score(candidate)
            if candidate_score > best_score:
                best, best_score = candidate, candidate_score
    log.info("thresholds %s score %.4f on the tuning images", best, best_score)
    return best
