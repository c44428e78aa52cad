"""Images: a set of them, and a part of it."""

from dataclasses import replace

import numpy as np

from nuclei.training_data.images import ImageSet
from nuclei.training_data.kinds import KINDS


def test_a_subset_keeps_each_image_with_its_own():
    whole = ImageSet(
        list("abcd"), [np.full((1, 1, 3), i) for i in range(4)], [np.full((1, 1), i) for i in range(4)], KINDS
    )
    part = whole.subset(np.array([3, 1]))
    assert part.ids == ["d", "b"] and part.kinds == [KINDS[3], KINDS[1]]
    assert [int(one[0, 0, 0]) for one in part.images] == [int(one[0, 0]) for one in part.labels] == [3, 1]
    assert replace(whole, labels=[]).subset([0]).labels == []
