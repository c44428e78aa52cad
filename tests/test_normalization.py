"""Normalisation: by the fused operation as by Keras's own layer, in training and after it."""

import keras
import numpy as np
import pytest

from nuclei.network.normalization import BatchNormalization

rng = np.random.default_rng(0)
X = rng.normal(3, 2, (4, 6, 5, 3)).astype(np.float32)


@pytest.mark.parametrize("policy, tolerance", [("float32", 1e-5), ("mixed_bfloat16", 2e-2), ("mixed_float16", 5e-3)])
def test_it_normalises_as_keras_layer_does(policy, tolerance):
    """What it gives, and its moving averages."""
    keras.mixed_precision.set_global_policy(policy)
    own, theirs = BatchNormalization(), keras.layers.BatchNormalization()
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
