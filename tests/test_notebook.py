"""The notebook: as it is built, it runs from top to bottom and shows pictures of what it found."""

import base64
import re

import cv2
import numpy as np
import pytest
from drawn_runs import TINY, bright_found

import build_kernel
from nuclei.competition.data import read_set
from nuclei.prediction.segmenter import Segmenter
from nuclei.prediction.watershed import HANDS
from nuclei_kit.files.run_lists import check_submission
from nuclei_kit.kaggle.kernel import ROOT
from nuclei_kit.sample.sample import draw_sample

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")
chapter = pytest.importorskip("nuclei.run.notebook", reason="matplotlib is not installed")


@pytest.mark.slow
def test_it_runs_from_top_to_bottom_and_shows_pictures(tmp_path, monkeypatch):
    draw_sample(tmp_path / "input", n_train=2, n_test=1)
    settings = {"INPUT": tmp_path / "input", "WORKING": tmp_path, "PRESET": "sample", "STEPS": 1, "STAGE": 1}
    for name, value in settings.items():
        monkeypatch.setenv(f"NUCLEI_{name}", str(value))
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):  # what Jupyter would leave in one's home
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # else Jupyter would not show them
    notebook = nbformat.reads(build_kernel.build(ROOT, notebook=True), as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=280, resources={"metadata": {"path": tmp_path}}).execute()
    said, shown = (notebook.cells[index].outputs for index in (-2, -1))
    assert "submission.csv" in "".join(output.get("text", "") for output in said)
    assert len(check_submission(tmp_path / "submission.csv", dict.fromkeys(list_ids(tmp_path)))) == 1
    (picture,) = [output.data["image/png"] for output in shown if output.output_type == "display_data"]
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), cv2.IMREAD_COLOR)
    assert pixels.std() > 10  # not blank


def list_ids(folder):
    rows = (folder / "input/stage1_sample_submission.csv").read_text().splitlines()[1:]
    return [row.partition(",")[0] for row in rows]


def test_each_kind_has_its_row_of_image_prediction_and_truth(tmp_path, monkeypatch):
    draw_sample(tmp_path, n_train=3, n_test=1)
    chapter.plt.switch_backend("Agg")
    shown = []
    segmenter = Segmenter(bright_found, HANDS["stage1_train"], TINY)
    monkeypatch.setattr(chapter.Segmenter, "load", lambda run: segmenter)
    monkeypatch.setattr(chapter.plt, "show", lambda: shown.append(chapter.plt.gcf()))
    chapter.show_pictures({"NUCLEI_INPUT": str(tmp_path), "NUCLEI_WORKING": str(tmp_path)})
    (figure,) = shown
    titles = [axis.get_title() for axis in figure.axes]
    kinds = set(read_set(tmp_path / "stage1_train.zip").kinds)
    assert {title.removesuffix(" (training)") for title in titles[::3]} == kinds
    assert len(titles) == 3 * len(kinds)
    for prediction, truth in zip(titles[1::3], titles[2::3], strict=True):
        assert re.fullmatch(r"prediction: \d+ nuclei, score [01]\.\d\d", prediction)
        assert re.fullmatch(r"truth: [1-9]\d*", truth)
    chapter.plt.close(figure)
