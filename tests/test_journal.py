"""Journal: it tells what was done, whatever became of the process that wrote it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuclei.settings.config import BadInput
from nuclei_kit.own_images.journal import UNFINISHED, Journal, unfinished_prediction

values = st.lists(st.tuples(st.text(), st.lists(st.text() | st.integers())), unique_by=lambda item: item[0], max_size=5)


@settings(max_examples=60)
@given(values, st.data())
def test_cut_off_anywhere_it_holds_the_lines_that_are_whole(tmp_path_factory, items, data):
    path = tmp_path_factory.mktemp("journal") / "a" / "x.journal"
    journal, ends = Journal(path), [0]
    for key, value in items:
        journal.add(key, value)
        ends.append(path.stat().st_size)
    assert Journal(path).done == journal.done == dict(items)
    cut = data.draw(st.integers(0, ends[-1]))
    if items:
        path.write_bytes(path.read_bytes()[:cut])
    whole = sum(end <= cut for end in ends[1:])
    again = Journal(path)
    assert again.done == dict(items[:whole])
    again.add("one more", 1)  # on a line of its own
    assert Journal(path).done == dict(items[:whole]) | {"one more": 1}


def test_what_follows_a_damaged_line_is_done_again(tmp_path):
    journal = Journal(tmp_path / "x.journal")
    for key in "abc":
        journal.add(key, key.upper())
    journal.path.write_bytes(journal.path.read_bytes().replace(b"B", b"X"))
    assert Journal(journal.path).done == {"a": "A"}


def test_work_is_done_once(tmp_path):
    calls = []
    for _ in range(2):  # two processes
        journal = Journal(tmp_path / "x.journal")
        for _ in range(2):
            assert journal.once("key", lambda: calls.append(1) or [0.1, "x"]) == [0.1, "x"]
    assert calls == [1]


def test_an_unfinished_prediction_is_kept_and_a_finished_one_is_not(tmp_path, caplog):
    caplog.set_level("INFO", "nuclei")
    with pytest.raises(KeyboardInterrupt), unfinished_prediction(tmp_path, "weights") as journal:
        journal.add("a.png", 1)
        raise KeyboardInterrupt
    assert f"{tmp_path / UNFINISHED} keeps" in caplog.text
    with unfinished_prediction(tmp_path, "weights") as journal:
        assert journal.done["a.png"] == 1
        assert "resuming after 1 " in caplog.text
    assert not list(tmp_path.iterdir())
    with unfinished_prediction(tmp_path, "other weights") as journal:
        assert "a.png" not in journal.done


def test_other_weights_do_not_resume(tmp_path):
    with pytest.raises(KeyboardInterrupt), unfinished_prediction(tmp_path, "weights"):
        raise KeyboardInterrupt
    with pytest.raises(BadInput, match="by other weights"), unfinished_prediction(tmp_path, "others"):
        pass
    with unfinished_prediction(tmp_path, "weights"):
        pass
