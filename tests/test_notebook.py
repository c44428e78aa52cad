"""The notebook: as it is built, it runs from top to bottom and shows pictures of what it found."""

import base64

import cv2
import numpy as np
import pytest
from drawn import draw_kind

import build_kernel
from nuclei.settings.config import Config
from nuclei.training_data.images import ImageSet
from nuclei_kit.files.run_lists import check_submission
from nuclei_kit.kaggle.kernel import ROOT
from nuclei_kit.sample.sample import draw_sample

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from nuclei.run.notebook import pick_images


def test_it_runs_from_top_to_bottom_and_shows_pictures(tmp_path, monkeypatch):
    draw_sample(tmp_path / "input", n_train=2, n_test=1)
    settings = {"INPUT": tmp_path / "input", "WORKING": tmp_path, "PRESET": "sample", "STEPS": 1, "STAGE": 1}
    for name, value in settings.items():
        monkeypatch.setenv(f"NUCLEI_{name}", str(value))
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):  # what Jupyter would leave in one's home
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
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


@pytest.mark.parametrize(("folds", "tuning", "part"), [(2, 0.5, "held out"), (0, 0.5, "tuning"), (0, 0.0, "training")])
def test_it_shows_the_images_that_training_had_the_least_to_do_with(folds, tuning, part):
    kinds = ["purple", "fluorescence-small"] * 4
    drawn = [draw_kind(kind, seed) for seed, kind in enumerate(kinds)]
    images = ImageSet([str(n) for n in range(8)], *map(list, zip(*drawn, strict=True)), kinds, {})
    name, shown = pick_images(images, Config(data_folds=folds, data_tuning=tuning))
    assert name == part
    assert shown.kinds == ["fluorescence-small", "purple"]
