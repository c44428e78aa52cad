"""Memory: what a training step keeps at 256 px, batch 16: the one-hundred-layer network beside the cpu preset's U-Net.

    .venv/bin/python benchmarks/memory.py

Computed, not measured: the sum over layers of what the backward pass needs (the inputs of convolutions and
normalisations, the outputs of activations and pooling), and of the weights with their gradients and Adam's two
moments. A backend's work space comes on top.
"""

import argparse
import math
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from keras import layers

from nuclei.settings.config import PRESETS
from nuclei.training.train import new_model

SIZE, BATCH = 256, 16


def kept_elements(model, size, batch):
    """Count the numbers that the backward pass needs, for inputs (batch, size, size, 3)."""
    kept = {}

    def keep(tensor):
        kept[id(tensor)] = batch * math.prod(shapes[id(tensor)])

    shapes = {id(model.input): (size, size, model.input.shape[-1])}
    for layer in model.layers[1:]:
        inputs = layer.input if isinstance(layer.input, list) else [layer.input]
        given = [(None, *shapes[id(one)]) for one in inputs]
        shapes[id(layer.output)] = layer.compute_output_shape(given if len(given) > 1 else given[0])[1:]
        if isinstance(layer, (layers.BatchNormalization, layers.Conv2D, layers.Conv2DTranspose, layers.MaxPooling2D)):
            keep(inputs[0])
        if isinstance(layer, (layers.Activation, layers.MaxPooling2D)):
            keep(layer.output)
    return sum(kept.values())


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("network            convolutions    weights  kept, 16 bit  kept, float32  optimiser")
    for preset in ("kaggle", "cpu"):
        model = new_model(PRESETS[preset])
        convolutions = sum(isinstance(x, (layers.Conv2D, layers.Conv2DTranspose)) for x in model.layers)
        kept, weights = kept_elements(model, SIZE, BATCH), model.count_params()
        print(
            f"{model.name:<18} {convolutions:>12} {weights / 1e6:>8.2f} M {2 * kept / 1e9:>10.1f} GB "
            f"{4 * kept / 1e9:>11.1f} GB {16 * weights / 1e9:>7.2f} GB"
        )


if __name__ == "__main__":
    main()
