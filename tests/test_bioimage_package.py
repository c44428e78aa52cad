"""bioimage.io: the package passes the tests of bioimageio.core, which ask ONNX Runtime for Keras's answers."""

import zipfile

import pytest

from nuclei.prediction.run_folder import find_run
from nuclei.settings.config import BadInput
from nuclei_kit.command.cli import main
from nuclei_kit.exports import bioimage_package


@pytest.mark.slow
def test_the_package_of_the_network_that_ships_passes(tmp_path):
    core = pytest.importorskip("bioimageio.core", reason='needs pip install -e ".[bioimageio]"')
    pytest.importorskip("tf2onnx", reason='needs pip install -e ".[bioimageio]"')
    assert main(["export", str(find_run()[0].parent), "--bioimageio", "--out", str(tmp_path)]) == 0
    path = tmp_path / "nuclei.bioimageio.zip"
    summary = core.test_description(path)
    assert summary.status == "passed", summary.format()
    described = core.load_model_description(path)
    assert described.license == "MIT" and described.cite[0].doi == "10.1038/s41592-019-0612-7"
    files = {"README.md", "cover.png", "model.onnx", "test_input.npy", "test_output.npy"}
    assert files < set(zipfile.ZipFile(path).namelist())


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("nuclei_kit.exports.onnx_model.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r'bioimageio\.core: pip install -e "\.\[bioimageio\]"'):
        bioimage_package.export_package(tmp_path, tmp_path)
    assert not any(tmp_path.iterdir())
