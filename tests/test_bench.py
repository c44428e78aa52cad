"""Bench: the table of a machine, and the counts behind it."""

import keras
import numpy as np
import pytest

from nuclei.settings.config import Config
from nuclei.training.train import new_model
from nuclei_kit.command.cli import main
from nuclei_kit.experiments import bench
from nuclei_kit.experiments.bench import forward_flop, rate
from nuclei_kit.sample.sample import draw_sample


def test_the_operations_of_convolutions_are_counted():
    """8 x 8 px: a convolution at stride 2 gives 4 x 4, and a transposed one reads those."""
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(5, 3, strides=2, padding="same")(inputs)
    model = keras.Model(inputs, keras.layers.Conv2DTranspose(2, 4, strides=2, padding="same")(x))
    assert forward_flop(model, 8) == 2 * 16 * (3 * 3 * 3 * 5 + 4 * 4 * 5 * 2)


@pytest.mark.parametrize("name", ["unet", "one_hundred_layers"])
def test_a_networks_operations_go_with_the_area(name):
    model = new_model(Config(model_name=name, model_width=4))
    assert forward_flop(model, 128) == 4 * forward_flop(model, 64) > 0


def test_the_rate_counts_calls_and_waits_for_the_last():
    calls, waited = [], []

    def call():
        calls.append(len(calls))
        return calls[-1]

    per_second = rate(call, 0.05, waited.append)
    assert calls[-1] == waited[-1] and waited[0] == 0
    assert set(waited[1:-1]) <= {number for number in calls if number % bench.STEPS_AHEAD == 0}
    assert 0 < per_second <= (len(calls) - 1) / 0.05


@pytest.mark.slow
@pytest.mark.parametrize("given", [False, True])
def test_it_prints_a_row_for_each_figure(tmp_path, capsys, monkeypatch, given):
    monkeypatch.setattr(bench, "SECONDS", 0.01)
    monkeypatch.setattr(bench, "draw_sample", lambda folder: draw_sample(folder, n_train=3, n_test=1))
    monkeypatch.setitem(bench.PRESETS, "cpu", Config(model_width=4, model_depth=1, model_stem=1, train_crop=32))
    if given:
        draw_sample(tmp_path, n_train=3, n_test=1)
    assert main(["bench", *(["--data", str(tmp_path)] if given else [])]) == 0
    said = capsys.readouterr().out
    assert ("images: " + (str(tmp_path) if given else "a drawn sample")) in said
    names = ["matrix product", "training, crops made ahead", "training, as a run", "making crops", "prediction"]
    for name in (*names, "reading, cold", "reading, warm", "peak memory"):
        (line,) = [line for line in said.splitlines() if line.startswith(f"{name}  ") or line.startswith(f"{name} ")]
        assert np.isfinite(float(line[28:].split()[0].replace(",", ""))), line


def test_a_folder_without_images_ends_it_with_a_sentence(tmp_path, capsys):
    assert main(["bench", "--data", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
