"""Batches: crops at the network's scale, balanced over kinds, made ahead of the training thread."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from nuclei.settings.config import BadInput, log
from nuclei.training_data.augmentation import augment
from nuclei.training_data.images import ImageSet
from nuclei.training_data.kinds import KINDS, nucleus_diameter, standardise

MOST_FAILING_IMAGES = 3  # images that crops cannot be made from; more than this many: a bug, not bad images


@dataclass
class Crops:
    """Random training crops of a set of images; batch i depends on the seed and on i alone, whoever makes it."""

    images: ImageSet  # with labels
    make_y: Callable[[np.ndarray], np.ndarray]  # labels (S, S) -> float32 (S, S, C + 1): targets, then pixel weights
    zoom_for: Callable[[float], float]  # the diameter of an image's typical nucleus, px -> the zoom that it is seen at
    size: int  # crops in a batch, N
    crop: int  # px, the side of a crop, S
    spread: float  # octaves, how far a crop strays from its image's zoom, both ways
    balance: float  # see `draw_chances`
    seed: int  # of all that is random

    def __post_init__(self) -> None:
        self.seen = [standardise(image) for image in self.images.images]
        self.failing: dict[str, str] = {}  # id: why no crop could be made of it
        self.chances = draw_chances(self.images.kinds, self.balance)
        diameters = np.array([nucleus_diameter(one) for one in self.images.labels])
        typical = np.median(diameters[diameters > 0]) if diameters.any() else 0.0
        self.zooms = [self.zoom_for(float(diameter or typical)) for diameter in diameters]

    def batch(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Make batch number `index` -> x float32 (N, S, S, 3) in 0..1, y float32 (N, S, S, C + 1), of `make_y`.

        An image that no crop can be made from is left out, with a warning, and another takes its place.

        Raises:
            BadInput: more than MOST_FAILING_IMAGES images were left out so far, or all there are.
        """
        rng = np.random.default_rng([self.seed, index])
        x, y = np.empty((self.size, self.crop, self.crop, 3), np.float32), []
        for number, i in enumerate(rng.choice(len(self.seen), self.size, p=self.chances)):
            while (made := self._make_crop(i, rng)) is None:
                i = rng.choice(len(self.seen), p=self.chances)
            np.divide(made[0], np.float32(255), out=x[number])
            y.append(made[1])
        return x, np.stack(y)

    def _make_crop(self, i, rng):
        """Make a crop of image number `i` -> (x uint8, y), or None where that fails."""
        try:
            zoom = self.zooms[i] * 2.0 ** rng.uniform(-self.spread, self.spread)
            image, labels = augment(self.seen[i], self.images.labels[i], rng, self.crop, zoom)
            return image, self.make_y(labels)
        except Exception as error:  # hours of training are worth more than one image
            self._leave_out(self.images.ids[i], f"{type(error).__name__}: {error}")
            return None

    def _leave_out(self, image_id, why):
        if image_id not in self.failing:
            self.failing[image_id] = why
            log.warning("training image %s is left out, since no crop can be made of it (%s)", image_id, why)
        if len(self.failing) > min(MOST_FAILING_IMAGES, len(self.seen) - 1):
            named = ", ".join(self.failing)
            raise BadInput(f"no crop can be made of the training images {named} ({why}): mend them or take them out")

    def stream(self, start: int = 0, workers: int | None = None) -> Generator[tuple[np.ndarray, np.ndarray]]:
        """Yield batches start, start + 1, ... without end, made beforehand in threads, one for each core by default.

        Threads serve, since OpenCV and NumPy let go of the interpreter's lock while they work.
        """
        workers = workers or os.cpu_count() or 2
        with ThreadPoolExecutor(workers, thread_name_prefix="crops") as pool:
            waiting = deque(pool.submit(self.batch, start + i) for i in range(workers + 2))
            try:
                for index in itertools.count(start + len(waiting)):
                    batch = waiting.popleft().result()
                    waiting.append(pool.submit(self.batch, index))
                    yield batch
            finally:
                for future in waiting:
                    future.cancel()


def draw_chances(kinds: list[str], balance: float) -> np.ndarray:
    """Compute the chance of each image to be drawn, float64 (N,), summing to 1.

    A kind with n images is drawn n^(1 - balance) as often as one with a single image: 0 draws images alike, 1 draws
    kinds alike.
    """
    counts = np.array([kinds.count(kind) for kind in KINDS])
    share = np.maximum(counts, 1.0) ** -balance
    chances = share[[KINDS.index(kind) for kind in kinds]]
    return chances / chances.sum()
