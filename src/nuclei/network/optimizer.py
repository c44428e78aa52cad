"""Optimizer: Muon for the convolutions, AdamW for biases and normalisation."""

import keras
from keras import KerasTensor, ops

ADAM_SHARE = 0.1  # AdamW's learning rate in Muon's, which is larger than AdamW can bear
NEWTON_SCHULZ_STEPS = 4  # iterations; the usual fifth changes little and costs a twentieth of a CPU's step


class ConvMuon(keras.optimizers.Muon):
    """Keras's Muon, which is made for matrices, for the kernels of convolutions.

    Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) makes the momentum of each matrix orthogonal before it
    takes the step, so that it learns in all directions alike. A kernel (height, width, in, out) is the matrix (height *
    width * in, out). As in Liu et al. 2025 (arXiv 2502.16982, section 2.2), the step is scaled to the size of
    AdamW's; `learning_rate` is Muon's own, times `adam_lr_ratio` it is AdamW's.
    """

    def _should_use_adamw(self, variable):
        return len(variable.shape) != 4

    def zeropower_via_newtonschulz5(self, x: KerasTensor, steps: int) -> KerasTensor:
        """Make the kernel's momentum x, (height, width, in, out), orthogonal as a matrix, and scale it."""
        matrix = ops.reshape(x, (-1, x.shape[-1]))
        step = super().lr_adjust(super().zeropower_via_newtonschulz5(matrix, steps))
        return ops.reshape(step, x.shape)

    def lr_adjust(self, x: KerasTensor) -> KerasTensor:
        """Leave it: the scale goes by the matrix, whose shape is gone here."""
        return x
