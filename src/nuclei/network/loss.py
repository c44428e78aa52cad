"""Loss: Dice, Dice with pixel weights, and cross-entropy with the same weights.

Pure functions of (y_true, y_pred) in keras.ops, on every backend. y_pred is (N, H, W, C), probabilities. For the
weighted losses y_true is (N, H, W, C + 1): C targets in 0..1, then one channel of pixel weights, each 1 or more.

Sums run over the pixels of one image and one class; the mean is then taken over classes and images, since a sum over
the batch would hide the small images in the large ones.
"""

from keras import KerasTensor, ops

DICE_SMOOTH = 1.0  # s: an empty image, predicted empty, has Dice s / s = 1 and a finite gradient
LOG_EPSILON = 1e-6  # least probability in a logarithm, which stays finite


def dice(y_true: KerasTensor, y_pred: KerasTensor) -> KerasTensor:
    """Compute -(2 sum(t p) + s) / (sum(t) + sum(p) + s) per image and class, then the mean: a scalar in [-1, 0).

    y_true and y_pred (N, H, W, C). See Milletari et al. 2016, "V-Net", equation 2, without its squares.
    """
    y_true = ops.cast(y_true, y_pred.dtype)
    return _dice_mean(y_true, y_pred, 1.0)


def weighted_dice(y_true: KerasTensor, y_pred: KerasTensor) -> KerasTensor:
    """Compute -(2 sum(t p) + s) / (sum(t) + sum(p w) + s) per image and class, then the mean: a scalar in [-1, 0).

    Predicting a nucleus where there is none costs as much as the pixel weighs, so the gap between two touching nuclei
    is costly. With weights of 1 it is `dice`.

    y_true (N, H, W, C + 1): targets, then the weight in the last channel (channel 1 where C is 1).
    """
    targets, weights = _split_weights(y_true, y_pred)
    return _dice_mean(targets, y_pred, weights)


def weighted_crossentropy(y_true: KerasTensor, y_pred: KerasTensor) -> KerasTensor:
    """Compute sum(w * bce(t, p)) / sum(w) per image and class, then the mean: a scalar, 0 or more.

    bce(t, p) = -t log p - (1 - t) log(1 - p). y_true as in `weighted_dice`.
    """
    targets, weights = _split_weights(y_true, y_pred)
    p = ops.clip(y_pred, LOG_EPSILON, 1 - LOG_EPSILON)
    bce = -(targets * ops.log(p) + (1 - targets) * ops.log(1 - p))
    return ops.mean(ops.sum(weights * bce, axis=(1, 2)) / ops.sum(weights, axis=(1, 2)))


def weighted_crossentropy_dice(y_true: KerasTensor, y_pred: KerasTensor) -> KerasTensor:
    """Add up weighted_crossentropy + dice + 1, the default loss; 0 is perfect. y_true as in `weighted_dice`.

    Cross-entropy gives every pixel a gradient, Dice an overlap that does not care how empty the image is. The weights
    are in the cross-entropy alone: where they exceed denominator / numerator of the fraction in `weighted_dice`, that
    loss is smallest for p < 1, so that it pulls against the cross-entropy along touching nuclei and thins the masks.
    """
    targets, _ = _split_weights(y_true, y_pred)
    return weighted_crossentropy(y_true, y_pred) + dice(targets, y_pred) + 1.0


# By name in Config; all take y_true with the weight in its last channel.
LOSSES = {
    "weighted_crossentropy_dice": weighted_crossentropy_dice,
    "weighted_dice": weighted_dice,
    "dice": lambda y_true, y_pred: dice(y_true[..., :-1], y_pred),
}


def _split_weights(y_true, y_pred):
    """Split y_true (N, H, W, C + 1) -> targets (N, H, W, C) and weights (N, H, W, 1)."""
    y_true = ops.cast(y_true, y_pred.dtype)
    return y_true[..., :-1], y_true[..., -1:]


def _dice_mean(targets, probs, weights):
    numerator = 2 * ops.sum(targets * probs, axis=(1, 2)) + DICE_SMOOTH
    denominator = ops.sum(targets, axis=(1, 2)) + ops.sum(probs * weights, axis=(1, 2)) + DICE_SMOOTH
    return -ops.mean(numerator / denominator)
