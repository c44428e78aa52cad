"""Saved settings: what a run wrote comes back; what is no settings file is named, whoever reads it."""

import json

import pytest

from nuclei.settings.config import BadInput
from nuclei_kit.files.saved_settings import SETTINGS_PARTS, read_settings


def test_what_was_written_is_read(tmp_path):
    content = {part: {"a": 1, "b": [2.5, None]} for part in SETTINGS_PARTS} | {"thresholds_from": "nowhere"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert read_settings(tmp_path / "config.json") == content


TORN = [b"", b'{"config": {"model', b"\xff", b"[]", b"3", b"[" * 100_000]


@pytest.mark.parametrize("text", [*TORN, *(b'{"%s": []}' % part.encode() for part in SETTINGS_PARTS)])
def test_what_is_no_settings_file_is_named(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(BadInput, match=r"config\.json is not a settings file"):
        read_settings(tmp_path / "config.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"config\.json is missing"):
        read_settings(tmp_path / "config.json")
