"""Saved settings: what a run wrote comes back; what is no settings file is named, whoever reads it."""

import json
from dataclasses import asdict

import pytest

from nuclei.prediction.watershed import HANDS
from nuclei.settings.config import BadInput
from nuclei_kit.files.saved_settings import SETTINGS_PARTS, change_thresholds, examine_settings


def test_what_was_written_is_read(tmp_path):
    content = {part: {"a": 1, "b": [2.5, None]} for part in SETTINGS_PARTS} | {"thresholds_from": "nowhere"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert examine_settings(tmp_path / "config.json") == content


TORN = [b"", b'{"config": {"model', b"\xff", b"[]", b"3", b"[" * 100_000]


@pytest.mark.parametrize("text", [*TORN, *(b'{"%s": []}' % part.encode() for part in SETTINGS_PARTS)])
def test_what_is_no_settings_file_is_named(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(BadInput, match=r"config\.json is not a settings file"):
        examine_settings(tmp_path / "config.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"config\.json is missing"):
        examine_settings(tmp_path / "config.json")


def test_other_thresholds_leave_all_else_as_it_was(tmp_path):
    """Settings of another version, too, and each earlier choice of thresholds with its origin."""
    path, before = tmp_path / "config.json", {"config": {"train_colour": 1}, "thresholds": {"small": {"seed": 0.5}}}
    path.write_text(json.dumps(before | {"versions": {"keras": "3"}}))
    change_thresholds(path, HANDS["stage1_test"], "one set")
    change_thresholds(path, HANDS["stage1_train"], "another set")
    chosen = [{look: asdict(one) for look, one in HANDS[hand].items()} for hand in ("stage1_test", "stage1_train")]
    assert examine_settings(path) == {
        "config": {"train_colour": 1},
        "thresholds": chosen[1],
        "thresholds_from": "another set",
        "earlier_thresholds": [
            {"thresholds": before["thresholds"], "thresholds_from": ""},
            {"thresholds": chosen[0], "thresholds_from": "one set"},
        ],
        "versions": {"keras": "3"},
    }
