"""Folding: a network without its normalisations gives the same answers."""

import keras
import numpy as np
import pytest

from nuclei.network.model import build_model, unet
from nuclei_kit.files.folding import fold_normalisation


@pytest.fixture(autouse=True, scope="module")
def fresh_state():
    """Leave no memory of these networks to the next module."""
    yield
    keras.backend.clear_session()


def norms(model):
    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


def stir(model):
    """Give every weight another value, so that no part of a normalisation is 0 or 1."""
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1.5, one.shape) * np.where(one == 0, 0.1, one) for one in model.get_weights()])
    return model


@pytest.mark.parametrize("stem", [1, 2])
def test_a_folded_network_answers_the_same_without_its_normalisations(stem):
    model = stir(unet(4, 2, stem, 3))
    before = model.get_weights()
    lean = fold_normalisation(model)
    assert norms(model) and not norms(lean)
    assert lean.count_params() == model.count_params() - 3 * sum(norm.gamma.shape[0] for norm in norms(model))
    x = np.random.default_rng(1).random((2, 16, 32, 3), np.float32)
    np.testing.assert_allclose(lean(x), model(x), atol=1e-5)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_normalises_something_else_than_a_convolution_stays():
    hundred = build_model("one_hundred_layers", 1, 2, 1, outputs=3)
    assert fold_normalisation(hundred) is hundred
