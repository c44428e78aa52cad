"""Prediction of many images and of large ones: what is done is not done again, whatever cuts it off."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
import roifile
import skimage.io
import tifffile
from drawn import draw_discs, draw_field, draw_kind
from stand_ins import CutOff, PixelNetwork, make_segmenter, paint

from nuclei.prediction.metric import precision_at_thresholds
from nuclei.prediction.segmenter import Segmenter
from nuclei.settings.config import BadInput
from nuclei_kit.files.planes import Choice
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


def read_labels(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def finished(said):
    """The images of which a prediction said how many nuclei it found, in order."""
    return [line.split(": ")[0] for line in said.splitlines() if " nuclei (" in line]


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
    assert finished(capsys.readouterr().out) == [str(p) for p in paths[:2]]
    with pytest.raises(BadInput, match="by other weights"):
        predict_files("others", paths, out)
    assert contents(out) == done
    rest = use(PixelNetwork())
    predict_files("w", paths, out)
    said = capsys.readouterr().out
    assert finished(said) == [str(p) for p in paths[2:]] and "\n4 images, 0.06 " in said
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
        ("b\udcff.png", None, "No such file"),
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


@pytest.mark.parametrize("name", ["b\udcff.png", "x" * 240 + ".png", "a\nb.png"])
def test_an_odd_name_costs_its_own_image_at_most(tmp_path, use, name):
    use(PixelNetwork())
    (path,) = draw_files(tmp_path / "in", 1)
    odd = path.with_name(name)
    odd.write_bytes(path.read_bytes())
    failed = predict_files("w", [odd, path], tmp_path / "out")
    found = contents(tmp_path / "out")
    assert "0.labels.png" in found and failed == (len(name) > 200)
    assert failed or found[f"{odd.stem}.labels.png"] == found["0.labels.png"]


def test_what_fails_costs_itself_alone_and_is_listed_at_the_end(tmp_path, use, caplog, capsys):
    use(PixelNetwork())
    good, bad, other = draw_files(tmp_path / "in", 3)
    bad.write_bytes(b"\xda\xce\xbe\x0a")
    arguments = [tmp_path / "none", bad, good, tmp_path / "*.tif", other]
    assert predict_files("w", arguments, tmp_path / "out") == 3
    assert finished(capsys.readouterr().out) == [str(good), str(other)]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 4 and said[-1] == "3 of 5 images could not be used, see above"
    for word in ("none cannot be read", "1.png is Nikon's ND2", "*.tif fits no file"):
        assert any(word in line for line in said)


def test_where_nothing_can_be_done_each_reason_is_told(tmp_path, use, caplog):
    use(PixelNetwork())
    with pytest.raises(BadInput, match="none of 2 images could be used"):
        predict_files("w", [tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "out")
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        f"{tmp_path / name} cannot be read" for name in ("a.png", "b.png")
    ]


def test_equal_names_are_kept_apart_by_their_folders(tmp_path, use):
    use(PixelNetwork())
    for number, well in enumerate(("A01", "A02")):
        (tmp_path / "plate").mkdir(exist_ok=True)
        draw_files(tmp_path / well, 2)[number].rename(tmp_path / well / "dapi.png")
        (tmp_path / well).rename(tmp_path / "plate" / well)
    assert predict_files("w", [tmp_path / "plate"], tmp_path / "out") == 0
    counts = {
        p.relative_to(tmp_path / "out").as_posix(): read_labels(p).max()
        for p in (tmp_path / "out").rglob("dapi.labels.png")
    }
    assert counts == {"A01/dapi.labels.png": 1, "A02/dapi.labels.png": 2}


def test_what_is_read_and_chosen_is_said(tmp_path, use, capsys):
    use(PixelNetwork())
    (path,) = draw_files(tmp_path / "in", 1)
    image = cv2.imread(str(path))[..., ::-1]
    stack = np.stack([np.zeros_like(image), image])
    tifffile.imwrite(tmp_path / "z.tif", stack, imagej=True, metadata={"axes": "ZYXS"})
    with pytest.raises(BadInput, match=r"z\.tif holds 2 z planes: choose with --z N\|max"):
        predict_files("w", [tmp_path / "z.tif"], tmp_path / "out")
    for z, said in ((2, "z plane 2 of 2"), ("max", "the maximum of 2 z planes")):
        assert predict_files("w", [tmp_path / "z.tif"], tmp_path / "out", Choice(z=z)) == 0
        assert f"z.tif: TIFF, 2 x 120 x 120 x 3 (ZYXS), uint8; {said}\n" in capsys.readouterr().out
        assert read_labels(tmp_path / "out" / "z.labels.png").max() == 1


def test_another_choice_is_another_prediction(tmp_path, use):
    """Cut off and started again with another plane, an image is not taken for done."""
    images = [cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) for path in draw_files(tmp_path / "in", 2)]
    tifffile.imwrite(tmp_path / "z.tif", np.stack(images), imagej=True, metadata={"axes": "ZYXS"})
    calls = count_calls(use, lambda: predict_files("w", [tmp_path / "z.tif"], tmp_path / "out", Choice(z=1)))
    use(CutOff(calls + 1))
    with pytest.raises(KeyboardInterrupt):
        predict_files("w", [tmp_path / "z.tif", tmp_path / "in" / "0.png"], tmp_path / "out", Choice(z=1))
    use(PixelNetwork())
    predict_files("w", [tmp_path / "z.tif"], tmp_path / "out", Choice(z=2))
    assert read_labels(tmp_path / "out" / "z.labels.png").max() == 2


ALL_FORMATS = ("tiff", "roi", "geojson", "coco", "csv")


@pytest.fixture
def deep(tmp_path):
    """A 16-bit TIFF of two discs, whose pixels are 0.5 um wide -> its path and the labels."""
    labels = draw_discs((SIDE, SIDE), (30, 30, 12), (80, 70, 14))
    image = np.where(paint(labels) > 0, 40_000, 300).astype(np.uint16)
    size = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "deep.tif", image, photometric="rgb", **size)
    return tmp_path / "deep.tif", labels


def test_what_is_found_is_written_in_all_formats(tmp_path, use, deep):
    path, labels = deep
    use(PixelNetwork())
    out = tmp_path / "out"
    predict_files("w", [path], out, formats=ALL_FORMATS)
    found = read_labels(out / "deep.labels.png")
    assert found.max() == 2 and np.array_equal(found > 0, labels > 0)
    np.testing.assert_array_equal(tifffile.imread(out / "deep.labels.tif"), found)
    assert len(roifile.roiread(out / "deep.rois.zip")) == 2
    rows = pd.read_csv(out / "deep.nuclei.csv")
    np.testing.assert_allclose(rows["area_um2"], np.bincount(found.ravel())[1:] / 4)
    np.testing.assert_allclose(rows["intensity_mean-0"], 40_000)  # in the file's own numbers
    np.testing.assert_allclose(rows["intensity_mean-2"], 300)
    features = json.loads((out / "deep.geojson").read_text())["features"]
    coco = json.loads((out / "coco.json").read_text())
    sure = [one["properties"]["measurements"]["Confidence"] for one in features]
    assert sure == [one["score"] for one in coco["annotations"]] == rows["confidence"].tolist()
    assert coco["images"] == [{"id": 1, "file_name": str(path), "height": SIDE, "width": SIDE}]


@pytest.mark.parametrize("channel", [None, "GFP"])
def test_every_channel_is_measured_wherever_the_nuclei_are_found(tmp_path, use, channel):
    labels = draw_discs((SIDE, SIDE), (30, 30, 12), (80, 70, 14))
    stack = np.stack([[labels * 0, labels * 0], [(labels > 0) * 900, (labels > 0) * 200]]).astype(np.uint16)  # ZCYX
    metadata = {"axes": "ZCYX", "Channel": {"Name": ["GFP", "DAPI"]}}
    tifffile.imwrite(tmp_path / "x.ome.tif", stack, ome=True, metadata=metadata)
    use(PixelNetwork())
    predict_files("w", [tmp_path / "x.ome.tif"], tmp_path / "out", Choice(channel, z=2), ("csv",))
    rows = pd.read_csv(tmp_path / "out" / "x.ome.nuclei.csv")
    assert rows["intensity_mean-0"].tolist() == [900, 900] and rows["intensity_mean-1"].tolist() == [200, 200]


def test_cut_off_it_resumes_to_the_same_files_in_all_formats(tmp_path, use):
    paths, out = draw_files(tmp_path / "in", 3), tmp_path / "out"
    calls = count_calls(use, lambda: predict_files("w", paths, tmp_path / "whole", formats=ALL_FORMATS))
    use(CutOff(calls - 1))
    with pytest.raises(KeyboardInterrupt):
        predict_files("w", paths, out, formats=ALL_FORMATS)
    assert use(PixelNetwork()) and not (out / "coco.json").exists()
    predict_files("w", paths, out, formats=ALL_FORMATS)
    assert contents(out) == contents(tmp_path / "whole")


def test_other_formats_are_written_of_what_was_done(tmp_path, use):
    paths = draw_files(tmp_path / "in", 2)
    calls = count_calls(use, lambda: predict_files("w", paths, tmp_path / "whole"))
    use(CutOff(calls - 1))
    with pytest.raises(KeyboardInterrupt):
        predict_files("w", paths, tmp_path / "out")
    use(PixelNetwork())
    predict_files("w", paths, tmp_path / "out", formats=("csv",))
    assert {"0.nuclei.csv", "1.nuclei.csv"} < set(contents(tmp_path / "out"))


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
    assert np.array_equal(skimage.io.imread(tmp_path / "out" / "0.labels.tif"), labels)


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
