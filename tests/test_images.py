"""Images: a set of them, and a part of it."""

from dataclasses import replace

import numpy as np
from drawn_files import assert_same_sets

from nuclei.training_data.images import ImageSet
from nuclei.training_data.kinds import KINDS


def draw_set(first, count):
    numbers = range(first, first + count)
    images, labels = ([np.full(shape, n) for n in numbers] for shape in ((1, 1, 3), (1, 1)))
    return ImageSet([f"id {n}" for n in numbers], images, labels, [KINDS[n % len(KINDS)] for n in numbers])


def test_two_sets_joined_hold_the_images_of_both_in_order():
    one, other = draw_set(0, 2), draw_set(2, 3)
    assert_same_sets(one.join(other), draw_set(0, 5))
    assert other.join(one).ids == ["id 2", "id 3", "id 4", "id 0", "id 1"]
    assert one.ids == ["id 0", "id 1"]  # as it was


def test_to_join_and_to_take_apart_gives_both_back():
    one, other = draw_set(0, 2), draw_set(2, 3)
    joint = one.join(other)
    assert_same_sets(joint.subset(range(2)), one)
    assert_same_sets(joint.subset(range(2, 5)), other)
    nothing = one.subset([])
    assert_same_sets(one.join(nothing), one)
    assert_same_sets(nothing.join(one), one)


def test_a_subset_keeps_each_image_with_its_own():
    whole = ImageSet(
        list("abcd"), [np.full((1, 1, 3), i) for i in range(4)], [np.full((1, 1), i) for i in range(4)], KINDS
    )
    part = whole.subset(np.array([3, 1]))
    assert part.ids == ["d", "b"] and part.kinds == [KINDS[3], KINDS[1]]
    assert [int(one[0, 0, 0]) for one in part.images] == [int(one[0, 0]) for one in part.labels] == [3, 1]
    assert replace(whole, labels=[]).subset([0]).labels == []
