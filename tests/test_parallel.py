"""Parallel: two copies of a network take the steps that one takes; on two devices, made of this machine's CPU."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from nuclei.network import parallel

# The two halves of each batch are alike, so that batch normalisation sees in each what it sees in the whole.
PROGRAM = """
import sys
import keras, numpy as np, tensorflow as tf
from dataclasses import replace
from nuclei.network import parallel
from nuclei.settings.config import Config
from nuclei.training.train import compile_model, new_model

halves = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], halves)
parallel.list_gpus = lambda: ["CPU:0", "CPU:1"]

config = Config(model_width=4, model_depth=1, model_stem=1, train_steps=9, train_batch=4, train_crop=16)
rng = np.random.default_rng(0)
x = np.tile(rng.random((2, 16, 16, 3), np.float32), (2, 1, 1, 1))
y = np.tile(np.concatenate([rng.random((2, 16, 16, 3)) > 0.5, np.ones((2, 16, 16, 1))], -1), (2, 1, 1, 1))
y = y.astype(np.float32)
def trained(*batches, tolerance):
    keras.utils.set_random_seed(0)
    with parallel.share_gpus(*batches):
        bare = new_model(config)
        model = compile_model(bare, config)
    model.optimizer.learning_rate = 1e-2
    losses = [float(parallel.train_step(model, x, y)) for _ in range(4)]
    probs = np.asarray(parallel.predictor(model)(x))
    bare.save_weights(sys.argv[1])
    alone = new_model(config)
    alone.load_weights(sys.argv[1])
    np.testing.assert_allclose(alone(x, training=False), probs, atol=tolerance)
    return model, losses, probs

for policy, tolerance in (("float32", 1e-4), ("mixed_float16", 5e-2)):
    keras.mixed_precision.set_global_policy(policy)
    two, losses, probs = trained(4, 8, tolerance=tolerance)
    assert two.distribute_strategy.num_replicas_in_sync == 2
    one, expected_losses, expected = trained(1, tolerance=tolerance)
    assert one.distribute_strategy.num_replicas_in_sync == 1
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(losses, expected_losses, rtol=tolerance)
    np.testing.assert_allclose(probs, expected, atol=5e-2)  # AdamW makes steps of mere rounding
    assert probs.shape == (4, 16, 16, 3)
    print(policy, "is done")
"""


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="other backends have one copy")
def test_two_copies_do_what_one_does(tmp_path):
    """In float32 and in float16 with loss scaling, as a T4 has it."""
    command = [sys.executable, "-c", PROGRAM, tmp_path / "the.weights.h5"]
    sources = Path(parallel.__file__).parents[2]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(sources)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["float32 is done", "mixed_float16 is done"]


@pytest.mark.parametrize("gpus, batches", [(0, (8, 8)), (1, (8, 8)), (2, (8, 1)), (2, (5, 8)), (3, (8, 8))])
def test_a_batch_that_cannot_be_shared_stays_whole(monkeypatch, gpus, batches):
    monkeypatch.setattr(parallel, "list_gpus", lambda: [f"GPU:{n}" for n in range(gpus)])
    with parallel.share_gpus(*batches) as strategy:
        assert strategy is None
