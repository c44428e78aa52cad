"""Run tables: what a run left, read as numbers, and refused where it holds none."""

import pytest

from nuclei.settings.config import BadInput
from nuclei_kit.files.run_tables import read_scores, read_training_log

LOG = "step,seconds,learning_rate,loss,tuning_score\n64,10.5,0.002,1.5,\n100,20,0.001,0.75,0.5\n"
SCORES = "ImageId,kind,score\na,purple,0.25\nb,brown,0.75\n"


def test_what_a_row_leaves_empty_is_not_there(tmp_path):
    (tmp_path / "log.csv").write_text(LOG)
    first, last = read_training_log(tmp_path / "log.csv")
    assert first == {"step": 64, "seconds": 10.5, "learning_rate": 0.002, "loss": 1.5}
    assert last["tuning_score"] == 0.5


@pytest.mark.parametrize(
    ("old", "new", "words"), [("1.5", "high", "'high'"), ("0.75", "nan", "'nan'"), ("loss", "x", "loss")]
)
def test_a_table_without_numbers_is_a_sentence(tmp_path, old, new, words):
    (tmp_path / "log.csv").write_text(LOG.replace(old, new, 1))
    with pytest.raises(BadInput, match=words) as error:
        read_training_log(tmp_path / "log.csv")
    assert "log.csv" in str(error.value)


@pytest.mark.parametrize("name", ["held_out.csv", "open.csv"])
def test_scores_come_with_the_kind_of_their_image(tmp_path, name):
    (tmp_path / name).write_text(SCORES)
    assert read_scores(tmp_path, name) == {"a": ("purple", 0.25), "b": ("brown", 0.75)}


def test_a_score_that_is_no_number_is_a_sentence(tmp_path):
    (tmp_path / "held_out.csv").write_text(SCORES.replace("0.75", "high"))
    with pytest.raises(BadInput, match=r"held_out\.csv has 'high' for score"):
        read_scores(tmp_path)
