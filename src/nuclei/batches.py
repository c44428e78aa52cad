"""Batches: crops at the network's scale, balanced over kinds, made ahead of the training thread."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from nuclei.augmentation import augment
from nuclei.kinds import KINDS, nucleus_diameter, standardise
from nuclei.targets import make_targets, pixel_weights


class Crops:
    """Random training crops of a set of images; batch i depends on the seed and on i alone, whoever makes it.

    Args:
        images: uint8 (H, W, 3) each.
        labels: int32 (H, W) each.
        kinds: one of KINDS each.
        config: a Config.
    """

    def __init__(self, images, labels, kinds, config):
        self.images = [standardise(image) for image in images]
        self.labels = labels
        self.config = config
        self.chances = draw_chances(kinds, config.train_balance)
        diameters = np.array([nucleus_diameter(one) for one in labels])
        typical = np.median(diameters[diameters > 0]) if diameters.any() else config.model_diameter
        self.zooms = config.model_diameter / np.where(diameters > 0, diameters, typical)

    def batch(self, index):
        """Batch number `index` -> x float32 (N, S, S, 3) in 0..1, y float32 (N, S, S, 4): three targets and the
        weight."""
        c = self.config
        rng = np.random.default_rng([c.train_seed, index])
        x = np.empty((c.train_batch, c.train_crop, c.train_crop, 3), np.float32)
        y = np.empty((c.train_batch, c.train_crop, c.train_crop, 4), np.float32)
        for n, i in enumerate(rng.choice(len(self.images), c.train_batch, p=self.chances)):
            zoom = self.zooms[i] * 2.0 ** rng.uniform(-c.train_zoom, c.train_zoom)
            image, labels = augment(self.images[i], self.labels[i], rng, c.train_crop, zoom)
            x[n] = image
            y[n, ..., :3] = make_targets(labels, c.target_core)
            y[n, ..., 3] = pixel_weights(labels, c.target_border, c.target_sigma, c.target_rare)
        x /= 255
        return x, y

    def stream(self, start=0, ahead=4, workers=2):
        """Batches start, start + 1, ... without end, up to `ahead` of them made in `workers` threads beforehand.

        Threads serve, since OpenCV and NumPy let go of the interpreter's lock while they work.
        """
        with ThreadPoolExecutor(workers, thread_name_prefix="crops") as pool:
            waiting = deque(pool.submit(self.batch, start + i) for i in range(ahead))
            try:
                index = start + ahead
                while True:
                    batch = waiting.popleft().result()
                    waiting.append(pool.submit(self.batch, index))
                    index += 1
                    yield batch
            finally:
                for future in waiting:
                    future.cancel()


def draw_chances(kinds, balance):
    """The chance of each image to be drawn, float64 (N,), summing to 1.

    A kind with n images is drawn n^(1 - balance) as often as one with a single image: 0 draws images alike, 1 draws
    kinds alike.
    """
    kinds = np.asarray(kinds)
    counts = np.array([np.count_nonzero(kinds == kind) for kind in KINDS])
    share = np.maximum(counts, 1.0) ** -balance
    chances = share[[KINDS.index(kind) for kind in kinds]]
    return chances / chances.sum()
