"""Small runs as tests draw them: settings that train at once, networks that know the answer, a keeper in memory."""

import json
from pathlib import Path

import numpy as np

from nuclei.prediction.segmenter import Segmenter
from nuclei.run import main
from nuclei.settings.config import Config
from nuclei.training.train import Keeper

TINY = Config(
    data_folds=5,
    data_tuning=0.25,
    model_width=4,
    model_depth=2,
    model_stem=1,
    train_steps=4,
    train_batch=2,
    train_crop=64,
    train_checks=1,
    tile_size=64,
    tile_overlap=16,
    tile_pixels=4 * 64**2,
    tta_views=1,
)


def nothing_found(x):
    """A network that finds nothing, quickly."""
    return np.zeros((*x.shape[:3], 3), np.float32)


def bright_found(x):
    """A network that takes what is bright for a nucleus."""
    bright = (x.mean(axis=-1, keepdims=True) > 0.3).astype(np.float32)
    return np.concatenate([bright, np.zeros_like(bright), bright], axis=-1)


class FakeModel:
    """A Keras model of such a network, as far as a run needs one."""

    layers = ()  # nothing to fold

    def __init__(self, network):
        self.predict_on_batch = network

    def save_weights(self, path):
        Path(path).write_text("weights")


def fake_training(network=nothing_found, on_the_way=()):
    """Stand in for train_model: its checks see the networks `on_the_way`, the last one sees `network`."""

    def train_model(config, train, log_file, keeper, check, start=None):
        log_file.write_text("log")
        for one in on_the_way:
            check(one, False)
        check(network, True)
        return FakeModel(network)

    return train_model


def cut_off_prediction(monkeypatch, network):
    """Have a run, whose training is `network`, cut off in its third test image, all kept by then -> the images seen."""
    seen, look = [], Segmenter.look

    def cut_off(self, image, views=None):
        seen.append(image)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return look(self, image, views)

    monkeypatch.setattr(main, "train_model", fake_training(network))
    monkeypatch.setattr(main, "REMEMBER_SECONDS", 0.0)
    monkeypatch.setattr(Segmenter, "look", cut_off)
    return seen


class MemoryKeeper(Keeper):
    """Keeps what it is given as a file would: JSON of the state, copies of the arrays."""

    def __init__(self):
        self.saved = {}

    def load(self, part):
        state, arrays = self.saved.get(part, (None, {}))
        return None if state is None else (json.loads(state), arrays)

    def save(self, part, state, arrays=None):
        copies = {name: [np.array(one) for one in group] for name, group in (arrays or {}).items()}
        self.saved[part] = json.dumps(state), copies
