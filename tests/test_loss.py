"""Loss: numbers computed by hand, a NumPy reference, and gradients; on every backend that is installed."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from nuclei.network.loss import LOSSES, dice, weighted_crossentropy, weighted_crossentropy_dice, weighted_dice
from nuclei.settings.config import LOSS_NAMES

BACKENDS = ("tensorflow", "jax", "torch")

# Two images of 2x2 px, one class. In the first the third nucleus pixel is found half; in the second there is none.
TARGETS = np.array([[[1, 0], [1, 0]], [[0, 0], [0, 0]]], np.float32)[..., None]
PROBS = np.array([[[0.5, 0.25], [1, 0]], [[0.5, 0], [0, 0]]], np.float32)[..., None]
WEIGHTS = np.array([[[1, 3], [1, 1]], [[4, 1], [1, 1]]], np.float32)[..., None]


def with_weights(targets, weights):
    return np.concatenate([targets, weights], axis=-1)


def number(loss, y_true, y_pred):
    """The loss as a float, whatever the backend."""
    return float(ops.convert_to_numpy(loss(ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred))))


def gradient(loss, y_true, y_pred):
    """d loss / d y_pred on any backend: what one step of plain gradient descent at rate 1 takes off."""

    class Answer(keras.layers.Layer):
        """Says y_pred, whatever it is asked."""

        def build(self, shape):
            self.answer = self.add_weight(shape=y_pred.shape, initializer="zeros")

        def call(self, x):
            return self.answer + 0 * x

    model = keras.Sequential([Answer()])
    model.build(y_pred.shape)
    model.set_weights([y_pred])
    model.compile(keras.optimizers.SGD(1.0), loss)
    compiled = model.train_on_batch(np.zeros_like(y_pred), y_true)
    np.testing.assert_allclose(compiled, number(loss, y_true, y_pred), rtol=1e-5, atol=1e-6)  # as it is
    return y_pred - model.get_weights()[0]


def sum_per_image(values):
    """The sum over each image and class, by plain loops: (N, H, W, C) -> N rows of C floats."""
    n, height, width, classes = values.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    return [[sum(float(values[i, y, x, c]) for y, x in pixels) for c in range(classes)] for i in range(n)]


def reference_dice(targets, probs, weights, smooth):
    t, p = sum_per_image(targets), sum_per_image(probs * weights)
    both = sum_per_image(targets * probs)
    return np.mean(
        [-(2 * both[i][c] + smooth) / (t[i][c] + p[i][c] + smooth) for i in range(len(t)) for c in range(len(t[0]))]
    )


def reference_crossentropy(targets, probs, weights):
    bce = -np.where(targets == 1, np.log(probs), np.log(1 - probs))
    costs, total = sum_per_image(bce * weights), sum_per_image(weights)
    return np.mean([[cost / total[i][0] for cost in row] for i, row in enumerate(costs)])


def drawn(classes, seed=0):
    """Targets, probs and weights of three images of 5x4 px, the last one empty."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((3, 5, 4, classes)) < 0.4).astype(np.float32)
    targets[2] = 0
    probs = rng.uniform(0.05, 0.95, targets.shape).astype(np.float32)
    return targets, probs, rng.uniform(1, 5, (3, 5, 4, 1)).astype(np.float32)


def test_dice_by_hand():
    # first: (2 * 1.5 + 1) / (2 + 1.75 + 1); second: (0 + 1) / (0 + 0.5 + 1)
    assert number(dice, TARGETS, PROBS) == pytest.approx(-(4 / 4.75 + 1 / 1.5) / 2, rel=1e-6)


def test_weighted_dice_by_hand():
    # The weights stand by the probs in the denominator alone: 0.5 + 3 * 0.25 + 1 = 2.25, and 4 * 0.5 = 2.
    y_true = with_weights(TARGETS, WEIGHTS)
    assert number(weighted_dice, y_true, PROBS) == pytest.approx(-(4 / 5.25 + 1 / 3) / 2, rel=1e-6)


def test_weighted_crossentropy_by_hand():
    # Two pixels: a nucleus found half, weight 1; background taken for a quarter nucleus, weight 3.
    y_true = np.array([[[[1, 1], [0, 3]]]], np.float32)
    probs = np.array([[[[0.5], [0.25]]]], np.float32)
    expected = (np.log(2) + 3 * np.log(4 / 3)) / 4
    assert number(weighted_crossentropy, y_true, probs) == pytest.approx(expected, rel=1e-5)


def test_the_sum_by_hand():
    y_true = np.array([[[[1, 1], [0, 3]]]], np.float32)
    probs = np.array([[[[0.5], [0.25]]]], np.float32)
    # Dice, without the weights: (2 * 0.5 + 1) / (1 + 0.5 + 0.25 + 1)
    expected = (np.log(2) + 3 * np.log(4 / 3)) / 4 - 2 / 2.75 + 1
    assert number(weighted_crossentropy_dice, y_true, probs) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("classes", [1, 3])
def test_losses_equal_their_reference(classes):
    targets, probs, weights = drawn(classes)
    y_true = with_weights(targets, weights)
    plain, weighted = reference_dice(targets, probs, 1, 1.0), reference_dice(targets, probs, weights, 1.0)
    crossentropy = reference_crossentropy(targets, probs, weights)
    assert number(dice, targets, probs) == pytest.approx(plain, rel=1e-5)
    assert number(weighted_dice, y_true, probs) == pytest.approx(weighted, rel=1e-5)
    assert number(weighted_crossentropy, y_true, probs) == pytest.approx(crossentropy, rel=1e-5)
    assert number(weighted_crossentropy_dice, y_true, probs) == pytest.approx(crossentropy + plain + 1, rel=1e-5)


@pytest.mark.parametrize("classes", [1, 3])
def test_weights_of_one_give_plain_dice(classes):
    targets, probs, weights = drawn(classes)
    y_true = with_weights(targets, np.ones_like(weights))
    assert number(weighted_dice, y_true, probs) == pytest.approx(number(dice, targets, probs), rel=1e-6)


@pytest.mark.parametrize("classes", [1, 3])
def test_every_loss_that_a_config_can_name_takes_the_weights_in_the_last_channel(classes):
    assert tuple(LOSSES) == LOSS_NAMES
    rng = np.random.default_rng(2)
    targets, probs = (
        rng.integers(0, 2, (2, 5, 4, classes)).astype(np.float32),
        rng.random((2, 5, 4, classes), np.float32),
    )
    weights = 1 + rng.random((2, 5, 4, 1), np.float32)
    said = {name: number(loss, with_weights(targets, weights), probs) for name, loss in LOSSES.items()}
    plain = {name: number(loss, with_weights(targets, np.ones_like(weights)), probs) for name, loss in LOSSES.items()}
    assert said["dice"] == plain["dice"] == pytest.approx(number(dice, targets, probs))
    assert plain["weighted_dice"] == pytest.approx(plain["dice"], rel=1e-6)
    assert said["weighted_dice"] > plain["weighted_dice"]
    assert said["weighted_crossentropy_dice"] == pytest.approx(
        number(weighted_crossentropy_dice, with_weights(targets, weights), probs)
    )


@pytest.mark.parametrize("loss", [dice, weighted_dice, weighted_crossentropy, weighted_crossentropy_dice])
def test_a_batch_costs_the_mean_of_its_images(loss):
    """A large nucleus beside a small one: a sum over the batch would weigh them by their pixels."""
    targets = np.zeros((2, 8, 8, 1), np.float32)
    targets[0], targets[1, 0, 0] = 1, 1
    probs = np.full_like(targets, 0.3)
    y_true = targets if loss is dice else with_weights(targets, np.ones_like(targets))
    one_by_one = [number(loss, y_true[i : i + 1], probs[i : i + 1]) for i in range(2)]
    assert one_by_one[0] != pytest.approx(one_by_one[1], rel=0.1)
    assert number(loss, y_true, probs) == pytest.approx(np.mean(one_by_one), rel=1e-6)


@pytest.mark.parametrize("loss", [weighted_dice, weighted_crossentropy, weighted_crossentropy_dice])
def test_a_weight_makes_its_false_positive_costly(loss):
    targets, weights = np.zeros((1, 4, 4, 1), np.float32), np.ones((1, 4, 4, 1), np.float32)
    targets[0, 0], weights[0, 1, 1] = 1, 6
    costs = []
    for y, x in ((2, 2), (1, 1)):  # the same false positive where it weighs 1 and where it weighs 6
        probs = np.where(targets == 1, 0.9, 0.1).astype(np.float32)
        probs[0, y, x] = 0.8
        costs.append(number(loss, with_weights(targets, weights), probs))
    assert costs[1] > costs[0] + 0.01


@pytest.mark.parametrize("truth", [0.0, 1.0])
def test_a_perfect_answer_is_the_least_that_a_loss_can_be(truth):
    """An empty image, and a full one, among them: Dice -1, cross-entropy and the sum 0."""
    targets = np.full((2, 4, 4, 1), truth, np.float32)
    targets[1, 0] = 1
    y_true = with_weights(targets, np.ones_like(targets))
    for loss, least in (
        (weighted_dice, -1),
        (lambda t, p: dice(t[..., :1], p), -1),
        (weighted_crossentropy, 0),
        (weighted_crossentropy_dice, 0),
    ):
        assert number(loss, y_true, targets) == pytest.approx(least, abs=1e-4)
        assert number(loss, y_true, np.clip(targets, 0.1, 0.9)) > least + 0.01


@pytest.mark.parametrize("loss", [dice, weighted_dice, weighted_crossentropy, weighted_crossentropy_dice])
def test_an_empty_image_has_a_finite_gradient_that_pushes_down(loss):
    targets = np.zeros((1, 4, 4, 1), np.float32)
    y_true = targets if loss is dice else with_weights(targets, np.ones_like(targets))
    for sure in (0.0, 0.3, 1.0):
        slope = gradient(loss, y_true, np.full_like(targets, sure))
        assert np.isfinite(slope).all()
        assert sure != 0.3 or (slope > 0).all()


def test_the_gradient_of_dice_by_hand():
    # -n / d with n = 2 p1 t1 + 1, d = 1 + p1 + 3 p2 + 1, p = (0.5, 0.25), t = (1, 0), weights (1, 3):
    # n = 2, d = 3.25; d/dp1 = -(2 d - n) / d^2, d/dp2 = 3 n / d^2
    y_true = np.array([[[[1, 1], [0, 3]]]], np.float32)
    slope = gradient(weighted_dice, y_true, np.array([[[[0.5], [0.25]]]], np.float32))
    np.testing.assert_allclose(slope.ravel(), [-(2 * 3.25 - 2) / 3.25**2, 3 * 2 / 3.25**2], rtol=1e-4)


def test_integer_targets_and_float64_are_taken():
    y_true = with_weights(TARGETS, WEIGHTS)
    for kind in (np.uint8, np.float64):
        assert number(weighted_dice, y_true.astype(kind), PROBS) == pytest.approx(-(4 / 5.25 + 1 / 3) / 2, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != keras.backend.backend()])
def test_the_same_on_another_backend(backend):
    if "NUCLEI_OTHER_BACKEND" in os.environ:
        pytest.skip("this is the other backend's run")
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed here")
    environment = {**os.environ, "KERAS_BACKEND": backend, "NUCLEI_OTHER_BACKEND": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
