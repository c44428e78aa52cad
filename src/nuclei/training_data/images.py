"""Images: a set of decoded images with their labels and kinds."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class ImageSet:
    """The decoded images of one folder or zip, in the order of their ids."""

    ids: list[str]
    images: list[np.ndarray]  # uint8 (H, W, 3) RGB each
    labels: list[np.ndarray]  # int32 (H, W) each, or [] where the set has no masks
    kinds: list[str]  # one of KINDS each
    unreadable: dict[str, str] = field(default_factory=dict)  # id: why it could not be read; it is in no other field
    overlapping: int = 0  # training images whose masks shared pixels

    def join(self, other: "ImageSet") -> "ImageSet":
        """Join the images of two sets with labels into one; what was unreadable is left behind."""
        fields = ("ids", "images", "labels", "kinds")
        return ImageSet(*(getattr(self, name) + getattr(other, name) for name in fields))

    def subset(self, indices: Iterable[int]) -> "ImageSet":
        """Take the images at `indices` alone; what was unreadable is left behind."""
        pick = [int(index) for index in indices]
        return ImageSet(
            [self.ids[i] for i in pick],
            [self.images[i] for i in pick],
            [self.labels[i] for i in pick] if self.labels else [],
            [self.kinds[i] for i in pick],
        )
