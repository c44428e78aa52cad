"""Optimizer: Muon for the convolutions, AdamW for biases and normalisation."""

import math
from collections import defaultdict

import keras
from keras import KerasTensor, ops

from nuclei.network.parallel import sum_over_copies

ADAM_SHARE = 0.1  # AdamW's learning rate in Muon's, which is larger than AdamW can bear
NEWTON_SCHULZ_STEPS = 4  # iterations; the usual fifth changes little


class ConvMuon(keras.optimizers.Muon):
    """Keras's Muon, which is made for matrices, for the kernels of convolutions.

    Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) makes the momentum of each matrix orthogonal before it
    takes the step, so that it learns in all directions alike. A kernel (height, width, in, out) is the matrix (height *
    width * in, out). As in Liu et al. 2025 (arXiv 2502.16982, section 2.2), the step is scaled to the size of
    AdamW's; `learning_rate` is Muon's own, times `adam_lr_ratio` it is AdamW's.

    The steps of all kernels are found together, in few operations: faster than one by one, and less to compile.
    """

    def _should_use_adamw(self, variable):
        return len(variable.shape) != 4

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        self._steps = self._kernel_steps(sum_over_copies(grads), trainable_variables, learning_rate)
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def _kernel_steps(self, grads, variables, learning_rate):
        """Find what comes off each kernel -> {index of the variable: float32, of its shape}."""
        groups, steps = defaultdict(list), {}  # the kernels by their columns, whose X^T X are of one shape
        for gradient, variable in zip(grads, variables, strict=True):
            if not self._should_use_adamw(variable):
                index, columns = self._get_variable_index(variable), variable.shape[-1]
                ahead = gradient + self.momentum**2 / (1 + self.momentum) * self.momentums[index]  # Nesterov's, scaled
                groups[columns].append((index, variable.shape, ops.reshape(ahead, (-1, columns))))
        for group in groups.values():
            grams = ops.stack([ops.matmul(ops.transpose(matrix), matrix) for _, _, matrix in group])
            factors = orthogonal_factors(grams, self.ns_steps, (self.muon_a, self.muon_b, self.muon_c))
            for number, (index, shape, matrix) in enumerate(group):
                size = learning_rate * self.rms_rate * math.sqrt(max(matrix.shape))
                steps[index] = ops.reshape(ops.matmul(matrix, size * factors[number]), shape)
        return steps

    def _muon_update_step(self, gradient, variable, lr, m):
        self.assign(m, self.momentum * m + gradient)
        self.assign_sub(variable, self._steps[self._get_variable_index(variable)])


def orthogonal_factors(grams: KerasTensor, steps: int, coefficients: tuple[float, float, float]) -> KerasTensor:
    """Find what makes matrices X orthogonal from their X^T X: float32 (N, m, m) -> Q (N, m, m), so that X Q is.

    Newton-Schulz's iterations make X p(X^T X) of X, where p(A) = a + b A + c A^2: X stays a factor on the left, and its
    A becomes p A p. Its small singular values are squared in A, which bfloat16 could not hold.
    """
    a, b, c = coefficients
    eye = ops.eye(grams.shape[-1], dtype=grams.dtype)
    square_norms = ops.sum(grams * eye, axis=(1, 2), keepdims=True) + 1e-14  # Frobenius, of X
    grams, factors = grams / square_norms, None
    for step in range(steps):
        polynomials = a * eye + b * grams + c * ops.matmul(grams, grams)
        factors = polynomials if factors is None else ops.matmul(factors, polynomials)
        if step < steps - 1:
            grams = ops.matmul(polynomials, ops.matmul(grams, polynomials))
    return factors / ops.sqrt(square_norms)
