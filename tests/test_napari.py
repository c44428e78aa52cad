"""napari: the snippet of docs/formats.md shows an image, its nuclei and their measurements, without a screen."""

import re

import numpy as np
import pytest
import tifffile
from drawn import draw_odd_shapes

from nuclei_kit.exports.imagej import encode_tiff
from nuclei_kit.exports.measurements import encode_table, measure
from nuclei_kit.kaggle.kernel import ROOT

SNIPPET = re.search(r"```python\n(.*?)```", (ROOT / "docs/formats.md").read_text(encoding="utf-8"), re.DOTALL)[1]


@pytest.mark.slow
def test_the_snippet_shows_nuclei_with_their_measurements(tmp_path, monkeypatch):
    napari = pytest.importorskip("napari", reason="needs pip install napari")
    monkeypatch.setattr(napari, "Viewer", napari.components.ViewerModel)  # all of it but the window, which needs OpenGL
    labels = draw_odd_shapes()
    image = labels.astype(np.uint16) * 100
    (tmp_path / "found").mkdir()
    tifffile.imwrite(tmp_path / "cells.tif", image)
    (tmp_path / "found/cells.labels.tif").write_bytes(encode_tiff(labels))
    (tmp_path / "found/cells.nuclei.csv").write_text(encode_table(measure(labels, [image], [0.5, 0.6, 0.7, 0.8, 0.9])))
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(SNIPPET, "docs/formats.md", "exec"), names)
    shown = names["viewer"].layers[-1]
    np.testing.assert_array_equal(shown.data, labels)
    told = str(shown.get_status((20, 10), world=True))  # in nucleus 1
    assert "confidence: 0.5" in told and "intensity_mean: 100" in told
