"""The optimiser: a kernel's step has every direction alike and AdamW's size, the rest goes by AdamW."""

import keras
import numpy as np
import pytest

from nuclei.network.optimizer import ADAM_SHARE, NEWTON_SCHULZ_STEPS, ConvMuon

RATE = 0.1
MUON_SIZE = 0.2  # root mean square of Muon's step at rate 1, which is about AdamW's (Liu et al. 2025, section 2.2)


def first_step(optimizer, gradient):
    """What the optimiser's first step takes off a variable of zeros: float32, of the gradient's shape."""
    variable = keras.Variable(np.zeros_like(gradient))
    optimizer.build([variable])
    optimizer.apply([keras.ops.convert_to_tensor(gradient)])
    return -keras.ops.convert_to_numpy(variable)


def conv_muon(**changes):
    settings = {"weight_decay": None, "adam_weight_decay": None, "adam_lr_ratio": ADAM_SHARE}
    return ConvMuon(RATE, **settings | {"ns_steps": NEWTON_SCHULZ_STEPS} | changes)


@pytest.mark.parametrize("shape", [(3, 3, 16, 32), (4, 4, 3, 32), (1, 1, 64, 24), (3, 3, 32, 8)])
def test_a_kernels_step_is_orthogonal_and_as_large_as_adamws(shape):
    rng = np.random.default_rng(0)
    # Nearly all of the gradient is in one direction, as it is where one feature dominates.
    gradient = rng.normal(size=shape) + 10 * np.ones(shape) * rng.normal(size=shape[-1])
    step = first_step(conv_muon(ns_steps=5), gradient.astype(np.float32)).reshape(-1, shape[-1])
    sizes = np.linalg.svd(step, compute_uv=False)
    # Newton-Schulz by Muon's coefficients ends anywhere in 0.7..1.2 (Jordan et al. 2024); 0.5 is for slow starters.
    assert sizes.max() / sizes.min() < 1.2 / 0.5
    assert np.sqrt(np.mean(step**2)) == pytest.approx(RATE * MUON_SIZE, rel=0.25)
    assert np.sum(step.reshape(shape) * gradient) > 0  # downhill


def test_of_a_matrix_it_is_keras_own_muon():
    gradient = np.random.default_rng(1).normal(size=(24, 40)).astype(np.float32)
    own = keras.optimizers.Muon(RATE, weight_decay=None, adam_weight_decay=None, ns_steps=NEWTON_SCHULZ_STEPS)
    kernel_step = first_step(conv_muon(), gradient[None, None])
    np.testing.assert_allclose(kernel_step[0, 0], first_step(own, gradient), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(32,), (24, 40)])
def test_what_is_no_kernel_goes_by_adamw_at_its_own_rate(shape):
    gradient = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    # AdamW's first step has the rate's size in every number, but for gradients near its epsilon.
    np.testing.assert_allclose(first_step(conv_muon(), gradient), RATE * ADAM_SHARE * np.sign(gradient), rtol=1e-2)
