"""Checkpoints: what was saved comes back, torn ones are told apart, and other settings are refused."""

import numpy as np
import pytest

from nuclei.settings.config import BadInput, Config
from nuclei.training_data.images import ImageSet
from nuclei_kit.files import checkpoint
from nuclei_kit.files.checkpoint import Checkpoints, digest_images, load_checkpoint, run_identity, save_checkpoint

SETTINGS = {"train_steps": 8, "scales": (1.0,)}  # JSON gives a tuple back as a list
ARRAYS = {"model": [np.arange(6, dtype=np.float32).reshape(2, 3), np.uint32(7)], "best": []}


def save(folder, *steps):
    for step in steps:
        save_checkpoint(folder, SETTINGS, {"step": step, "losses": [0.1, float("nan")]}, ARRAYS)


def newest(folder):
    return sorted(folder.iterdir())[-1]


def test_what_was_saved_comes_back(tmp_path):
    save(tmp_path / "a/b", 3)
    state, arrays = load_checkpoint(tmp_path / "a/b", SETTINGS)
    assert state["step"] == 3
    np.testing.assert_array_equal(state["losses"], [0.1, np.nan])
    assert list(arrays) == ["model"]  # of an empty group nothing stays
    for one, other in zip(arrays["model"], ARRAYS["model"], strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_many_arrays_keep_their_order(tmp_path):
    save_checkpoint(tmp_path, {}, {}, {"model": np.arange(120), "optimizer": np.arange(11) * 2})
    _, arrays = load_checkpoint(tmp_path, {})
    assert arrays["model"] == list(range(120))
    assert arrays["optimizer"] == list(range(0, 22, 2))


def test_where_there_is_none(tmp_path):
    assert load_checkpoint(tmp_path / "nowhere", SETTINGS) is None


def test_two_stand_and_nothing_else(tmp_path):
    tmp_path.joinpath("000001-half.npz.77.tmp").write_bytes(b"half")
    save(tmp_path, *range(12))
    assert [path.name[:6] for path in sorted(tmp_path.iterdir())] == ["000010", "000011"]
    assert load_checkpoint(tmp_path, SETTINGS)[0]["step"] == 11


@pytest.mark.parametrize("damage", [b"", "cut", "flip"])
def test_the_one_before_a_torn_one_counts(tmp_path, caplog, damage):
    save(tmp_path, 1, 2)
    path = newest(tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(data if damage == "flip" else data[:-1] if damage == "cut" else b"")
    assert load_checkpoint(tmp_path, SETTINGS)[0]["step"] == 1
    assert "is torn" in caplog.text
    save(tmp_path, 3)
    assert load_checkpoint(tmp_path, SETTINGS)[0]["step"] == 3
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    assert load_checkpoint(tmp_path, SETTINGS) is None


def test_other_settings_are_refused_and_named(tmp_path):
    save(tmp_path / "run/checkpoints", 1)
    message = r"^\S+/run holds .*\(train_steps was 8, is 9; new was None, is 1\): name another folder .* delete it"
    with pytest.raises(BadInput, match=message):
        load_checkpoint(tmp_path / "run/checkpoints", {**SETTINGS, "train_steps": 9, "new": 1})


def test_a_disk_that_fails_costs_a_warning(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_whole", fail)
    save(tmp_path, 1)
    assert "no checkpoint could be written" in caplog.text


def test_the_digest_changes_with_every_part():
    image, labels = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.int32)
    digests = {digest_images(ImageSet(["a"], [image], [labels], []))}
    other, another = image.copy(), labels.copy()
    other[1, 2, 0] = another[3, 3] = 1
    for ids, one, its_labels in (
        ("b", image, [labels]),
        ("a", other, [labels]),
        ("a", image, [another]),
        ("a", image, []),
        ("a", image.reshape(6, 4, 3), [labels]),
    ):
        digests.add(digest_images(ImageSet([ids], [one], its_labels, [])))
    assert len(digests) == 6


# ---- the keeper of a run -----------------------------------------------------------------------


def test_each_part_of_a_run_comes_back_by_itself(tmp_path):
    keeper = Checkpoints(tmp_path, SETTINGS)
    assert keeper.load("training") is None and keeper.load("thresholds") is None
    keeper.save("training", {"step": 3}, {"model": [np.arange(3)]})
    keeper.save("thresholds", {"seed": 0.5})
    again = Checkpoints(tmp_path, SETTINGS)
    state, arrays = again.load("training")
    assert state == {"step": 3} and arrays["model"][0].tolist() == [0, 1, 2]
    assert again.load("thresholds") == ({"seed": 0.5}, {})
    with pytest.raises(BadInput, match="other settings"):
        Checkpoints(tmp_path, SETTINGS | {"train_steps": 9}).load("training")


def test_without_its_training_no_other_part_of_a_run_counts(tmp_path):
    keeper = Checkpoints(tmp_path, SETTINGS)
    keeper.save("thresholds", {"seed": 0.5})
    assert keeper.load("training") is None
    assert keeper.load("thresholds") is None


def test_a_run_is_told_by_its_settings_images_and_first_weights():
    one = ImageSet(["a"], [np.zeros((4, 6, 3), np.uint8)], [np.zeros((4, 6), np.int32)], ["purple"])
    other = ImageSet(["b"], one.images, one.labels, one.kinds)
    weights = [np.arange(6.0).reshape(2, 3).T]  # not contiguous
    identities = [
        run_identity(Config(), one, None, None),
        run_identity(Config(train_seed=1), one, None, None),
        run_identity(Config(), other, None, None),
        run_identity(Config(), one, other, None),
        run_identity(Config(), one, None, weights),
        run_identity(Config(), one, None, [weights[0] + 1]),
    ]
    assert all(a != b for i, a in enumerate(identities) for b in identities[:i])
    assert run_identity(Config(), one, None, [weights[0].copy()]) == identities[4]
