"""Normalization: batch normalisation, in TensorFlow by its fused operation."""

import keras
from keras import KerasTensor, ops


class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's layer over the last axis, with the same weights under the same names, made cheap in training.

    TensorFlow without XLA takes ten passes through memory for what Keras writes down, and two for its fused operation.
    Other backends' compilers fuse it themselves.
    """

    def call(self, inputs: KerasTensor, training: bool | None = None, mask: KerasTensor | None = None) -> KerasTensor:
        if not training or keras.backend.backend() != "tensorflow":
            return super().call(inputs, training, mask)
        import tensorflow as tf

        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, ops.convert_to_tensor(self.gamma), ops.convert_to_tensor(self.beta), epsilon=self.epsilon
        )
        count = ops.cast(ops.size(inputs[..., 0]), variance.dtype)
        biased = variance * (count - 1) / count  # as Keras keeps it
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, biased)):
            moving.assign(moving * self.momentum + now * (1 - self.momentum))
        return outputs
