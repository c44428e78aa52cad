"""Model: the one-hundred-layer network, and a small U-Net for CPUs.

Both take float32 (N, H, W, 3) in 0..1, with H and W multiples of 32 (one hundred layers) or of stem * 2^depth
(U-Net), and give float32 (N, H, W, outputs) in 0..1: one sigmoid a class, so that classes may overlap. The last
activation is float32 under every mixed policy.
"""

import keras
from keras import Input, KerasTensor, Model, layers, ops

# FC-DenseNet103 (Jegou et al. 2017, "The One Hundred Layers Tiramisu", table 2): layers of each dense block.
TIRAMISU_BLOCKS = (4, 5, 7, 10, 12)
TIRAMISU_BOTTLENECK = 15
UNET_WIDEST = 256  # most filters of a level


def build_model(name: str, width: int, depth: int, stem: int, outputs: int = 1) -> Model:
    """Build the network of a name: "unet" or "one_hundred_layers" (width is then the growth rate)."""
    if name == "one_hundred_layers":
        return one_hundred_layers(width, outputs)
    return unet(width, depth, stem, outputs)


# ---- one hundred layers ------------------------------------------------------------------------


def one_hundred_layers(growth: int = 16, outputs: int = 1) -> Model:
    """Build U-Net's shape from FC-DenseNet103's dense blocks: 103 convolutions, 9.4 M weights at growth 16.

    1 at the entrance + 38 in the dense blocks on the way down + 5 that close them (1x1) + 15 at the bottom + 5
    transposed + 38 on the way up + 1 at the exit. A block on the way up passes on only what it adds (Jegou et al.,
    section 3.2), which keeps the width of the full-resolution end in bounds.

    The paper's dropout is left out: before batch normalisation it leaves variances in the moving averages that
    prediction does not meet (Li et al. 2018, arXiv 1801.05134). docs/results.md has what it cost.

    Args:
        growth: feature maps that each layer adds; the paper's is 16, and its first convolution has 3 * growth maps.
        outputs: classes, each with its own sigmoid.
    """
    inputs = Input((None, None, 3))
    x = layers.Conv2D(3 * growth, 3, padding="same", kernel_initializer="he_uniform")(inputs)
    skips = []
    for count in TIRAMISU_BLOCKS:
        x = layers.Concatenate()([x, _dense_block(x, count, growth)])
        skips.append(x)
        x = _transition_down(x)
    x = _dense_block(x, TIRAMISU_BOTTLENECK, growth)
    for count, skip in zip(reversed(TIRAMISU_BLOCKS), reversed(skips), strict=True):
        x = layers.Conv2DTranspose(x.shape[-1], 3, strides=2, padding="same", kernel_initializer="he_uniform")(x)
        x = layers.Concatenate()([x, skip])
        added = _dense_block(x, count, growth)
        x = layers.Concatenate()([x, added]) if count == TIRAMISU_BLOCKS[0] else added
    return Model(inputs, _probabilities(layers.Conv2D(outputs, 1)(x)), name="one_hundred_layers")


def _dense_block(x, count, growth):
    """Add `count` layers, each reading all before it -> what they add: (N, H, W, count * growth)."""
    added = []
    for _ in range(count):
        new = _dense_layer(x, growth, 3)
        added.append(new)
        x = layers.Concatenate()([x, new])
    return layers.Concatenate()(added)


def _dense_layer(x, filters, kernel):
    x = BatchNormalization()(x)
    x = layers.Activation("relu")(x)
    return layers.Conv2D(filters, kernel, padding="same", use_bias=False, kernel_initializer="he_uniform")(x)


def _transition_down(x):
    return layers.MaxPooling2D(2)(_dense_layer(x, x.shape[-1], 1))


# ---- U-Net -------------------------------------------------------------------------------------


def unet(width: int = 32, depth: int = 4, stem: int = 1, outputs: int = 1) -> Model:
    """Build a U-Net (Ronneberger et al. 2015) made cheap where a CPU spends its time.

    - `stem` 2 or 4: the first convolution works at that stride, the last one (transposed) undoes it, and no level
      runs at full resolution.
    - The way up adds its skips (LinkNet, Chaurasia and Culurciello 2017) and has one convolution a level, where U-Net
      concatenates and has two: on 2 cores twice the crops a second.

    Args:
        width: filters at the first level, doubled at each halving up to UNET_WIDEST.
        depth: halvings.
        stem: stride of the first convolution: 1, 2 or 4.
        outputs: as in `one_hundred_layers`.
    """
    inputs = Input((None, None, 3))
    x = _conv(inputs, width, kernel=2 * stem, stride=stem) if stem > 1 else _conv(inputs, width)
    *filters, widest = (min(width * 2**level, UNET_WIDEST) for level in range(depth + 1))
    skips = []
    for level in range(depth):
        x = _conv(x, filters[level]) if level else x
        x = _conv(x, filters[level])
        skips.append(x)
        x = layers.MaxPooling2D(2)(x)
    x = _conv(_conv(x, widest), widest)
    for skip in reversed(skips):
        x = layers.UpSampling2D(2)(layers.Conv2D(skip.shape[-1], 1)(x))
        x = _conv(layers.Add()([x, skip]), skip.shape[-1])
    logits = layers.Conv2DTranspose(outputs, 2 * stem, strides=stem, padding="same")(x)
    return Model(inputs, _probabilities(logits), name="unet")


def _conv(x, filters, kernel=3, stride=1):
    x = layers.Conv2D(filters, kernel, stride, "same", use_bias=False, kernel_initializer="he_uniform")(x)
    return layers.Activation("relu")(BatchNormalization()(x))


def _probabilities(logits):
    return layers.Activation("sigmoid", dtype="float32", name="probs")(logits)


class BatchNormalization(layers.BatchNormalization):
    """Keras's layer, its weights and their names, in training by TensorFlow's fused operation.

    What Keras writes down takes ten passes through memory there; other backends' compilers fuse it themselves.
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
