"""StarDist peer: trains and predicts with StarDist; beside_stardist.py runs it, in StarDist's own environment.

    .venv/bin/python benchmarks/stardist_peer.py --help
    build/stardist/bin/python benchmarks/stardist_peer.py FOLDER MINUTES

FOLDER holds images.npz, with objects `train`, `labels` and `test`. Leaves found.npz, the labels of the test images, and
prints JSON with the training's and the prediction's images a second. 32 rays, RGB, a grid of 2, as is usual; thresholds
are optimised on 30 images of the training set that were held out. The first ten steps do not count.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # StarDist is written for Keras 2

HELD_OUT, STEPS_BEFORE = 30, 10


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("minutes", type=float)
    args = parser.parse_args()

    import tensorflow as tf
    from csbdeep.utils import normalize
    from stardist.models import Config2D, StarDist2D

    files = np.load(args.folder / "images.npz", allow_pickle=True)
    train, test = ([normalize(image, 1, 99.8, axis=(0, 1, 2)) for image in files[name]] for name in ("train", "test"))
    labels = list(files["labels"])
    config = Config2D(n_rays=32, grid=(2, 2), n_channel_in=3, train_patch_size=(256, 256), train_batch_size=4)
    model = StarDist2D(config, name="stardist", basedir=str(args.folder))

    class Clock(tf.keras.callbacks.Callback):
        steps, start, end = 0, time.monotonic(), 0.0

        def on_train_batch_end(self, batch, logs=None):
            self.steps += 1
            self.end = time.monotonic()
            if self.steps == STEPS_BEFORE:
                self.start = self.end
            if self.steps > STEPS_BEFORE and self.end - self.start > 60 * args.minutes:
                self.model.stop_training = True

    def augment(image, label):
        turns = np.random.randint(4)
        return np.rot90(image, turns) * np.random.uniform(0.6, 2), np.rot90(label, turns)

    clock = Clock()
    model.prepare_for_training()
    model.callbacks.append(clock)
    held = list(zip(train[:HELD_OUT], labels[:HELD_OUT], strict=True))
    validation = tuple(map(list, zip(*held, strict=True)))
    model.train(
        train[HELD_OUT:],
        labels[HELD_OUT:],
        validation_data=validation,
        augmenter=augment,
        epochs=10**6,
        steps_per_epoch=20,
    )
    model.optimize_thresholds(*validation)
    model.predict_instances(test[0])
    start = time.monotonic()
    found = [model.predict_instances(image)[0] for image in test]
    seconds = time.monotonic() - start
    objects = np.empty(len(found), object)
    objects[:] = found
    np.savez(args.folder / "found.npz", found=objects)
    steps = clock.steps - STEPS_BEFORE
    rates = {"training": 4 * steps / (clock.end - clock.start), "prediction": len(test) / seconds, "steps": clock.steps}
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
