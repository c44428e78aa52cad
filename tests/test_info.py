"""The facts about a competition are those that were drawn into it."""

import zipfile

import cv2
import numpy as np
import pytest
from drawn import draw_discs

from nuclei.settings.config import BadInput
from nuclei_kit.files.info import facts_table, find_sets, gather_facts
from nuclei_kit.sample.sample import draw_sample


def write_image(folder, image_id, image, *masks):
    for kind, pictures in (("images", [image]), ("masks", masks)):
        for number, picture in enumerate(pictures):
            path = folder / image_id / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), picture)


@pytest.fixture
def competition(tmp_path):
    """Two dark images, of 3 and 2 nuclei, the first with 2 pixels shared; one light image with one; a test image."""
    first = [np.where(draw_discs((60, 80), (30, 20 * i, 6)) > 0, 255, 0).astype(np.uint8) for i in (1, 2, 3)]
    first[1][30, 20:22] = 255
    second = draw_discs((60, 60), (20, 20, 6), (40, 40, 6))
    third = (draw_discs((60, 80), (30, 30, 8)) > 0).astype(np.uint8)
    train = tmp_path / "stage1_train"
    write_image(train, "a", np.clip(sum(m.astype(int) for m in first), 0, 200).astype(np.uint8), *first)
    write_image(
        train,
        "b",
        (200 * (second > 0)).astype(np.uint8),
        *(np.where(second == i, 255, 0).astype(np.uint8) for i in (1, 2)),
    )
    write_image(train, "c", 220 - 150 * third, 255 * third)
    write_image(tmp_path / "stage1_test", "d", 220 - 150 * third)
    return tmp_path


def test_the_facts_of_a_training_set(competition):
    facts = gather_facts(find_sets(competition)[0])
    assert facts.sizes == {(60, 80): 2, (60, 60): 1}
    assert facts.kinds == {"fluorescence-small": 2, "grey-tissue": 1}
    assert {kind: counts.tolist() for kind, counts in facts.nuclei.items()} == {
        "fluorescence-small": [3, 2],
        "grey-tissue": [1],
    }
    assert facts.overlapping == 1
    assert facts.unreadable == {}


def test_the_facts_of_a_test_set_with_a_bad_image(competition):
    write_image(competition / "stage1_test", "bad", np.zeros((4, 4), np.uint8))
    (competition / "stage1_test" / "bad" / "images" / "0.png").write_bytes(b"no image")
    facts = gather_facts(find_sets(competition)[1])
    assert facts.kinds == {"grey-tissue": 1}
    assert facts.nuclei == {}
    assert list(facts.unreadable) == ["bad"]
    assert "0.png is not a PNG" in facts_table(facts)


def test_the_sets_of_a_folder(competition):
    assert [path.name for path in find_sets(competition)] == ["stage1_train", "stage1_test"]
    with zipfile.ZipFile(competition / "stage2_test_final.zip", "w"):
        pass
    assert [path.name for path in find_sets(competition)][2:] == ["stage2_test_final.zip"]


def test_a_folder_with_none_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BadInput, match=r"stage1_train\.zip"):
            find_sets(folder)


def test_the_table_holds_the_numbers_and_fits_a_terminal(tmp_path):
    draw_sample(tmp_path, n_train=5, n_test=5)
    for path in find_sets(tmp_path):
        facts = gather_facts(path)
        lines = facts_table(facts).splitlines()
        assert all(len(line) <= 80 for line in lines[1:])  # the first is the path
        rows = {line.split()[0]: line.split()[1:] for line in lines}
        for kind, images in facts.kinds.items():
            counts = facts.nuclei.get(kind)
            nuclei = [] if counts is None else [counts.sum(), counts.min(), np.median(counts), counts.max()]
            assert [float(word) for word in rows[kind]] == pytest.approx([images, *nuclei], rel=1e-3)
        assert rows["all"][0] == "5"


def test_a_set_of_bad_images_alone_has_a_table(tmp_path):
    path = tmp_path / "stage1_test" / "x" / "images" / "x.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    assert "images that cannot be read: 1" in facts_table(gather_facts(tmp_path / "stage1_test"))
