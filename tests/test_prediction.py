"""Prediction of many images and of large ones: what is done is not done again, whatever cuts it off."""

import cv2
import numpy as np
import pytest
from drawn import draw_discs, draw_field, draw_kind
from stand_ins import CutOff, PixelNetwork, make_segmenter, paint

from nuclei.prediction.metric import precision_at_thresholds
from nuclei.prediction.segmenter import Segmenter
from nuclei.settings.config import BadInput
from nuclei_kit.files.run_lists import check_submission, decode_rles
from nuclei_kit.own_images import blocks, prediction
from nuclei_kit.own_images.prediction import predict_competition, predict_files

SIDE = 120


@pytest.fixture
def use(monkeypatch):
    """A network in place of weights: call `use(network)` before a prediction."""
    monkeypatch.setattr(prediction, "digest_runs", lambda weights: weights)

    def use(network):
        monkeypatch.setattr(prediction, "load_runs", lambda weights: make_segmenter(network))
        return network

    return use


def draw_files(folder, count):
    """Images of one disc more each -> their paths."""
    folder.mkdir()
    paths = [folder / f"{n}.png" for n in range(count)]
    for n, path in enumerate(paths, start=1):
        discs = [(20 + 30 * (k // 3), 20 + 30 * (k % 3), 12) for k in range(n)]
        cv2.imwrite(str(path), paint(draw_discs((SIDE, SIDE), *discs))[..., ::-1])
    return paths


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def count_calls(use, predict):
    """How often an undisturbed prediction calls its network."""
    network = use(PixelNetwork())
    predict()
    return network.calls


def test_a_prediction_of_files_resumes_with_the_image_that_was_at_work(tmp_path, use, capsys):
    paths, out = draw_files(tmp_path / "in", 4), tmp_path / "out"
    calls = count_calls(use, lambda: predict_files("w", paths, tmp_path / "whole"))
    assert "2.png: 3 nuclei (0.01 " in capsys.readouterr().out
    use(CutOff(calls // 2 + 1))  # in the third of four
    with pytest.raises(KeyboardInterrupt):
        predict_files("w", paths, out)
    done = contents(out)
    assert {"0.labels.png", "1.overlay.png"} < set(done) and "2.labels.png" not in done
    assert [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()] == [str(p) for p in paths[:2]]
    with pytest.raises(BadInput, match="by other weights"):
        predict_files("others", paths, out)
    assert contents(out) == done
    rest = use(PixelNetwork())
    predict_files("w", paths, out)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in said[:2]] == [str(p) for p in paths[2:]]
    assert said[2].startswith("4 images, 0.06 ")
    assert rest.calls == calls // 2
    assert contents(out) == contents(tmp_path / "whole")


def test_an_image_that_changed_meanwhile_is_predicted_again(tmp_path, use):
    paths, out = draw_files(tmp_path / "in", 2), tmp_path / "out"
    calls = count_calls(use, lambda: predict_files("w", paths, tmp_path / "whole"))
    use(CutOff(calls // 2))
    with pytest.raises(KeyboardInterrupt):
        predict_files("w", paths, out)
    paths[0].write_bytes(paths[1].read_bytes())
    use(PixelNetwork())
    predict_files("w", paths, out)
    assert (out / "0.labels.png").read_bytes() == (tmp_path / "whole" / "1.labels.png").read_bytes()


def test_a_finished_prediction_is_made_anew(tmp_path, use):
    paths = draw_files(tmp_path / "in", 1)
    calls = count_calls(use, lambda: predict_files("w", paths, tmp_path / "out"))
    assert calls == count_calls(use, lambda: predict_files("others", paths, tmp_path / "out"))


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("b\udcff.png", None, "not UTF-8"),
        ("empty.png", b"", "is empty"),
        ("text.png", b"no image", "is not a PNG"),
        ("none.png", None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, use, name, content, why):
    use(PixelNetwork())
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=f"{name}.* {why}"):
        predict_files("w", [tmp_path / name], tmp_path / "out")


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file that counts as large, of twelve blocks, and its labels."""
    monkeypatch.setattr(prediction, "MAX_WHOLE_PIXELS", 300 * 300)
    monkeypatch.setattr(prediction, "MAX_OVERLAY_PIXELS", 200 * 200)
    monkeypatch.setattr(blocks, "BLOCK", 100)
    labels = draw_field(np.random.default_rng(0), (300, 400), 12, 40)
    cv2.imwrite(str(tmp_path / "large.png"), paint(labels)[..., ::-1])
    return tmp_path / "large.png", labels


def test_a_large_image_goes_by_blocks_and_its_overlay_is_smaller(tmp_path, use, large):
    path, labels = large
    use(PixelNetwork())
    predict_files("w", [path], tmp_path / "out")
    found = cv2.imread(str(tmp_path / "out" / "large.labels.png"), cv2.IMREAD_UNCHANGED)
    assert found.max() == labels.max() and np.array_equal(found > 0, labels > 0)
    assert cv2.imread(str(tmp_path / "out" / "large.overlay.png")).shape == (150, 200, 3)
    assert len(contents(tmp_path / "out")) == 2  # no journal is left


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_large_image_resumes_with_the_block_that_was_at_work(tmp_path, use, large, share):
    path, _ = large
    calls = count_calls(use, lambda: predict_files("w", [path], tmp_path / "whole"))
    use(CutOff(int(share * calls)))
    with pytest.raises(KeyboardInterrupt):
        predict_files("w", [path], tmp_path / "out")
    rest = use(PixelNetwork())
    predict_files("w", [path], tmp_path / "out")
    repeated = int(share * calls) + rest.calls - calls
    assert 0 <= repeated <= (60 if share == 0.02 else 30)  # the search for the zoom, or a block
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_more_nuclei_than_16_bits_number_are_a_tiff_of_32(tmp_path, use, monkeypatch):
    labels = np.arange(SIDE * SIDE * 9, dtype=np.int32).reshape(3 * SIDE, 3 * SIDE)
    monkeypatch.setattr(Segmenter, "segment", lambda *_: (labels, np.ones(labels.max())))
    monkeypatch.setattr(prediction, "overlay", lambda image, labels: image)
    use(None)
    predict_files("w", draw_files(tmp_path / "in", 1), tmp_path / "out")
    assert set(contents(tmp_path / "out")) == {"0.labels.tif", "0.overlay.png"}
    assert np.array_equal(cv2.imread(str(tmp_path / "out" / "0.labels.tif"), cv2.IMREAD_UNCHANGED), labels)


def test_a_prediction_of_a_competition_resumes_with_the_image_that_was_at_work(tmp_path, use, capsys):
    for n, path in enumerate(draw_files(tmp_path / "in", 4)):
        home = tmp_path / "data" / "stage2_test_final" / f"id{n}" / "images"
        home.mkdir(parents=True)
        path.rename(home / "x.png")
    data, out = tmp_path / "data", tmp_path / "out"
    calls = count_calls(use, lambda: predict_competition("w", data, 2, tmp_path / "whole"))
    expected = contents(tmp_path / "whole")
    rles = check_submission(tmp_path / "whole" / "submission.csv", {f"id{n}": (SIDE, SIDE) for n in range(4)})
    assert [decode_rles(rles[f"id{n}"], SIDE, SIDE).max() for n in range(4)] == [1, 2, 3, 4]
    use(CutOff(calls // 2 + 1))
    with pytest.raises(KeyboardInterrupt):
        predict_competition("w", data, 2, out)
    rest = use(PixelNetwork())
    capsys.readouterr()
    predict_competition("w", data, 2, out)
    assert capsys.readouterr().out.startswith("2 images, 0.03 ")
    assert rest.calls == calls // 2
    assert contents(out) == expected


@pytest.mark.parametrize("kind", ["fluorescence-small", "fluorescence-large", "pink-purple"])
def test_the_weights_that_come_along_find_drawn_nuclei(tmp_path, kind):
    image, truth = draw_kind(kind)
    path = tmp_path / "drawn.png"
    cv2.imwrite(str(path), image[..., ::-1])
    predict_files(None, [path], tmp_path / "found")
    found = cv2.imread(str(tmp_path / "found" / "drawn.labels.png"), cv2.IMREAD_UNCHANGED)
    assert precision_at_thresholds(truth, found.astype(np.int32))[0] > 0.8  # at an IoU of 0.5
