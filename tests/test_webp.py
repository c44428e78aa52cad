"""The report's pictures: as they are where there is room, and never more than there is room for."""

import base64

import cv2
import numpy as np
import pytest

from nuclei_kit.report.webp import MAX_SIDE, WEBP_PREFIX, encode_images, encode_webp


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def decode(address):
    assert address.startswith(WEBP_PREFIX)
    return cv2.imdecode(np.frombuffer(base64.b64decode(address.removeprefix(WEBP_PREFIX)), np.uint8), cv2.IMREAD_COLOR)


def test_where_there_is_room_pictures_keep_their_pixels():
    images = [noise(40, 60), noise(90, 30), noise(8, 2 * MAX_SIDE)]
    shapes = [decode(address).shape[:2] for address in encode_images(images, 10**7)]
    assert shapes == [(40, 60), (90, 30), (4, MAX_SIDE)]


@pytest.mark.parametrize("room", [3_000, 10_000, 30_000])
def test_pictures_take_no_more_room_than_there_is(room):
    images = [noise(side, 2 * side) for side in (4, 16, 64, 128)]
    addresses = encode_images(images, room)
    assert 0.4 * room < sum(map(len, addresses)) <= room
    for image, address in zip(images, addresses, strict=True):
        height, width = decode(address).shape[:2]
        assert abs(width - 2 * height) <= 1 and width <= image.shape[1]


def test_the_small_ones_do_not_pay_for_the_large():
    small, large = noise(16, 16), noise(256, 256)
    addresses = encode_images([small, large, small], 20_000)
    assert decode(addresses[0]).shape == decode(addresses[2]).shape == small.shape
    assert decode(addresses[1]).shape < large.shape


def test_no_pictures_take_no_room():
    assert encode_images([], 10) == []


def test_a_line_of_pixels_can_be_shrunk():
    assert cv2.imdecode(np.frombuffer(encode_webp(noise(1, 500), 10), np.uint8), cv2.IMREAD_COLOR).shape == (1, 10, 3)
