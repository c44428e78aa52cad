"""Model: what a network takes and gives, how large it is, and that it learns."""

import keras
import numpy as np
import pytest

from nuclei.network.loss import weighted_crossentropy_dice, weighted_dice
from nuclei.network.model import (
    UNET_WIDEST,
    BatchNormalization,
    build_model,
    one_hundred_layers,
    unet,
)


@pytest.fixture(autouse=True, scope="module")
def fresh_state():
    """Leave no memory of these networks to the next module."""
    yield
    keras.backend.clear_session()


@pytest.fixture(scope="module")
def hundred():
    """The one-hundred-layer network at growth 1, of 3 classes."""
    return build_model("one_hundred_layers", 1, 2, 1, outputs=3)


def convolutions(model):
    kinds = (keras.layers.Conv2D, keras.layers.Conv2DTranspose)
    return [layer for layer in model.layers if isinstance(layer, kinds)]


def noise(*shape):
    return np.random.default_rng(0).random(shape, np.float32)


def answer(model, x):
    """What the model says, eagerly: tracing five hundred layers would take longer than the answer."""
    return keras.ops.convert_to_numpy(model(x, training=False))


def assert_probs(probs, shape):
    assert probs.dtype == np.float32
    assert probs.shape == shape
    assert probs.min() >= 0
    assert probs.max() <= 1
    assert np.ptp(probs) > 0


@pytest.mark.slow
def test_one_hundred_layers_has_what_its_docstring_counts():
    model = one_hundred_layers(growth=16)
    layers = convolutions(model)
    transposed = [layer for layer in layers if isinstance(layer, keras.layers.Conv2DTranspose)]
    assert len(layers) == 103
    assert len(transposed) == 5
    assert model.count_params() == pytest.approx(9.4e6, abs=0.05e6)
    assert model.input_shape == (None, None, None, 3)
    assert model.output_shape == (None, None, None, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96)])
def test_one_hundred_layers_keeps_the_size(hundred, height, width):
    assert hundred.name == "one_hundred_layers"
    assert_probs(answer(hundred, noise(2, height, width, 3)), (2, height, width, 3))


@pytest.mark.parametrize(("width", "depth", "stem"), [(4, 1, 1), (4, 2, 1), (4, 2, 2), (8, 3, 4), (3, 4, 2)])
def test_unet_keeps_the_size(width, depth, stem):
    model = unet(width, depth, stem)
    step = stem * 2**depth
    for height, length in ((step, step), (step, 3 * step), (2 * step, step)):
        assert_probs(answer(model, noise(2, height, length, 3)), (2, height, length, 1))


def test_unet_doubles_its_filters_up_to_the_widest():
    assert UNET_WIDEST == 256
    model = unet(width=64, depth=4)
    assert {layer.filters for layer in convolutions(model)} == {1, 64, 128, 256}


@pytest.mark.parametrize("outputs", [1, 3, 5])
def test_a_channel_a_class(outputs):
    model = build_model("unet", 4, 2, 1, outputs)
    assert model.name == "unet"
    assert_probs(answer(model, noise(1, 32, 32, 3)), (1, 32, 32, outputs))


def test_one_class_by_default():
    assert build_model("unet", 4, 1, 1).output_shape[-1] == 1


def test_classes_may_overlap():
    """A sigmoid a class, no softmax: the classes of a pixel need not sum to 1."""
    keras.utils.set_random_seed(0)
    sums = answer(unet(4, 1, outputs=3), noise(1, 16, 16, 3)).sum(axis=-1)
    assert np.abs(sums - 1).mean() > 0.1


@pytest.mark.parametrize("name", ["unet", "one_hundred_layers"])
def test_prediction_normalises_by_what_training_did(hundred, name):
    """With the statistics of a batch as the averages, prediction gives what training gave: no dropout shifts them."""
    model = hundred if name == "one_hundred_layers" else unet(2, 1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    x = noise(2, 64, 64, 3)
    trained = keras.ops.convert_to_numpy(model(x, training=True))
    np.testing.assert_allclose(answer(model, x), trained, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("unet", "mixed_float16"),
        ("unet", "mixed_bfloat16"),
        pytest.param("one_hundred_layers", "mixed_bfloat16", marks=pytest.mark.slow),
    ],
)
def test_the_last_activation_is_float32_under_every_policy(name, policy):
    keras.mixed_precision.set_global_policy(policy)
    model = build_model(name, 1, 1, 1)
    assert model.layers[-1].compute_dtype == "float32"
    assert model.layers[-2].compute_dtype == policy.removeprefix("mixed_")
    assert_probs(answer(model, noise(1, 32, 32, 3)), (1, 32, 32, 1))


def disc_batch(outputs):
    """Four bright discs on black, 32 px, and their targets with weights of 1."""
    y, x = np.mgrid[:32, :32]
    discs = np.stack([np.hypot(y - 16, x - 8 - 4 * n) < 6 + n for n in range(4)])[..., None].astype(np.float32)
    images = np.repeat(0.8 * discs, 3, axis=-1) + 0.1 * noise(4, 32, 32, 3)
    return images, np.concatenate([discs] * outputs + [np.ones_like(discs)], axis=-1)


@pytest.mark.slow
@pytest.mark.parametrize(("outputs", "loss"), [(3, weighted_crossentropy_dice), (1, weighted_dice)])
def test_the_loss_falls(outputs, loss):
    """For one_hundred_layers, which takes a minute here, see test_main: its run trains it."""
    keras.utils.set_random_seed(0)
    model = unet(4, 1, outputs=outputs)
    model.compile(keras.optimizers.Adam(1e-2), loss, run_eagerly=True)
    batch = disc_batch(outputs)
    losses = []
    for _ in range(12):
        model.reset_metrics()  # else it is the mean so far
        losses.append(float(model.train_on_batch(*batch)))
    assert np.isfinite(losses).all()
    assert min(losses[-2:]) < losses[0] - 0.1


# ---- batch normalisation -----------------------------------------------------------------------

X = np.random.default_rng(0).normal(3, 2, (4, 6, 5, 3)).astype(np.float32)


@pytest.mark.parametrize("policy, tolerance", [("float32", 1e-5), ("mixed_bfloat16", 2e-2), ("mixed_float16", 5e-3)])
def test_it_normalises_as_keras_layer_does(policy, tolerance):
    """What it gives, and its moving averages."""
    keras.mixed_precision.set_global_policy(policy)
    own, theirs = BatchNormalization(), keras.layers.BatchNormalization()
    rng = np.random.default_rng(1)
    weights = [rng.uniform(0.5, 2, 3).astype(np.float32) for _ in range(4)]
    for layer in (own, theirs):
        layer.build(X.shape)
        layer.set_weights(weights)
    assert [one.path.split("/")[-1] for one in own.variables] == [one.path.split("/")[-1] for one in theirs.variables]
    for training in (False, True):
        given, expected = (keras.ops.convert_to_numpy(layer(X, training=training)) for layer in (own, theirs))
        assert given.dtype == expected.dtype
        np.testing.assert_allclose(given.astype(float), expected.astype(float), rtol=tolerance, atol=tolerance)
        for one, other in zip(own.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3)


def test_in_training_it_leaves_each_channel_with_mean_0_and_variance_1():
    layer = BatchNormalization()
    given = keras.ops.convert_to_numpy(layer(X, training=True))
    np.testing.assert_allclose(given.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(given.std(axis=(0, 1, 2)), 1, atol=1e-3)
    assert layer.name.startswith("batch_normalization")  # the name under which weights files hold it
