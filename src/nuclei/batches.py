"""Batches: crops at the network's scale, balanced over kinds, made ahead of the training thread."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from nuclei.augmentation import augment
from nuclei.config import BadInput, log
from nuclei.kinds import KINDS, nucleus_diameter, standardise
from nuclei.targets import make_targets, pixel_weights

MOST_FAULTS = 3  # images from which no crop can be made; more of them are a fault of the program, not of an image


class Crops:
    """Random training crops of a set of images; batch i depends on the seed and on i alone, whoever makes it.

    Args:
        images: uint8 (H, W, 3) each.
        labels: int32 (H, W) each.
        kinds: one of KINDS each.
        config: a Config.
        ids: the images' names in a warning; without them, their numbers.
    """

    def __init__(self, images, labels, kinds, config, ids=None):
        self.ids = range(len(images)) if ids is None else ids
        self.faults = {}  # id: why no crop could be made of it
        self.images = [standardise(image) for image in images]
        self.labels = labels
        self.config = config
        self.chances = draw_chances(kinds, config.train_balance)
        diameters = np.array([nucleus_diameter(one) for one in labels])
        typical = np.median(diameters[diameters > 0]) if diameters.any() else config.model_diameter
        self.zooms = [config.zoom(diameter or typical) for diameter in diameters]

    def batch(self, index):
        """Batch number `index` -> x float32 (N, S, S, 3) in 0..1, y float32 (N, S, S, 4): three targets and the
        weight. An image of which no crop can be made is left out, with a warning, and another takes its place.

        Raises:
            BadInput: more than MOST_FAULTS images were left out so far, or all there are.
        """
        c = self.config
        rng = np.random.default_rng([c.train_seed, index])
        x = np.empty((c.train_batch, c.train_crop, c.train_crop, 3), np.float32)
        y = np.empty((c.train_batch, c.train_crop, c.train_crop, 5), np.float32)
        for n, i in enumerate(rng.choice(len(self.images), c.train_batch, p=self.chances)):
            while not self._make_crop(i, rng, x[n], y[n]):
                i = rng.choice(len(self.images), p=self.chances)
        x /= 255
        return x, y

    def _make_crop(self, i, rng, x, y):
        """Fills x (S, S, 3) and y (S, S, 4) from image number `i` -> whether that went well."""
        c = self.config
        try:
            zoom = self.zooms[i] * 2.0 ** rng.uniform(-c.train_zoom, c.train_zoom)
            image, labels = augment(self.images[i], self.labels[i], rng, c.train_crop, zoom)
            x[:] = image
            y[..., :4] = make_targets(labels, c.target_core)
            y[..., 4] = pixel_weights(labels, c.target_border, c.target_sigma, c.target_rare)
        except Exception as error:  # hours of training are worth more than one image
            self._leave_out(self.ids[i], f"{type(error).__name__}: {error}")
            return False
        return True

    def _leave_out(self, image_id, why):
        if image_id not in self.faults:
            self.faults[image_id] = why
            log.warning("training image %s is left out, since no crop can be made of it (%s)", image_id, why)
        if len(self.faults) > min(MOST_FAULTS, len(self.images) - 1):
            named = ", ".join(map(str, self.faults))
            raise BadInput(f"no crop can be made of the training images {named} ({why}): mend them or take them out")

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
