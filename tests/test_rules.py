"""The rules for what Kaggle gets: metadata that would fail late, and what may not be published."""

import json
import re
import subprocess
import sys

import pytest

from nuclei_kit.kaggle.kernel import METADATA as METADATA_FILE
from nuclei_kit.kaggle.kernel import ROOT
from nuclei_kit.kaggle.rules import BuildError, check_lines, check_metadata, read_text

METADATA = (ROOT / METADATA_FILE).read_text()


def test_the_metadata_of_this_repository_are_what_the_competition_needs():
    data = check_metadata("kernel/kernel-metadata.json", METADATA, "nuclei_kernel")
    assert data["competition_sources"] == ["data-science-bowl-2018"]
    assert (data["enable_internet"], data["machine_shape"]) == (False, "NvidiaTeslaT4")


@pytest.mark.parametrize(
    "key, value, line, message",
    [
        ("id", "nuclei", 2, "must be OWNER/SLUG"),
        ("id", "jane/cell", 2, "must be OWNER/SLUG"),
        ("title", "Other nuclei", 3, "gives the slug other-nuclei"),
        ("code_file", "kernel.py", 4, "must be nuclei_kernel.py"),
        ("language", "r", 5, "must be python"),
        ("kernel_type", "app", 6, "must be script or notebook"),
        ("kernel_type", "notebook", 4, "must be nuclei_kernel.ipynb"),
        ("is_private", "true", 7, "must be a bool"),
        ("enable_gpu", False, 8, "must be true"),
        ("enable_internet", None, 1, "is missing"),
        ("machine_shape", "T4", 11, "must be one of NvidiaTeslaT4"),
        ("competition_sources", "data-science-bowl-2018", 12, "must be a list"),
        ("enable_internet", True, 10, "must be false"),
        ("id", f"jane/{'a' * 51}", 2, "must be OWNER/SLUG, the slug 5 characters or more, 50 at most"),
        ("title", "nuclei " * 8, 3, "must have 50 characters at most"),
        *(
            ("competition_sources", [name], 12, f"must name {name!r} as SLUG, data-science-bowl-2018")
            for name in (
                "c/data-science-bowl-2018",
                "competitions/data-science-bowl-2018",
                "https://www.kaggle.com/c/data-science-bowl-2018",
                "https://www.kaggle.com/competitions/data-science-bowl-2018/",
            )
        ),
        ("competition_sources", ["Data Science Bowl"], 12, "must name 'Data Science Bowl' as SLUG"),
        ("enable_tpu", True, 9, "must be false: a session has one accelerator"),
        ("competition_sources", ["data-science-bowl-2018"] * 2, 12, "must name one competition, and once"),
        ("competition_sources", ["data-science-bowl-2018", "titanic"], 12, "must name one competition, and once"),
        ("competition_sources", [], 12, "must name a competition"),
        ("competition_sources", [2018], 12, "must name 2018 as SLUG"),
        ("dataset_sources", ["datasets/jane/cells"], 13, "must name 'datasets/jane/cells' as OWNER/SLUG, jane/cells"),
        ("dataset_sources", ["cells"], 13, "must name 'cells' as OWNER/SLUG"),
        ("kernel_sources", ["code/jane/cells"], 14, "must name 'code/jane/cells' as OWNER/SLUG, jane/cells"),
        ("model_sources", ["models/google/bert/keras/base/2"], 15, "must name .*, google/bert/keras/base/2"),
        ("gpu", True, 16, "is a key that Kaggle ignores"),
    ],
)
def test_metadata_that_would_fail_late_are_refused_at_once(key, value, line, message):
    data = json.loads(METADATA) | {key: value}
    text = json.dumps({k: v for k, v in data.items() if v is not None}, indent=2)
    text = re.sub(r"\[\n +(.*)\n +\]", r"[\1]", text)  # lists on one line, as in the file
    at = "code_file" if value == "notebook" else key  # a notebook needs another file
    with pytest.raises(BuildError, match=f"^metadata.json:{line}: {at} {message}"):
        check_metadata("metadata.json", text, "nuclei_kernel")


@pytest.mark.parametrize(
    "text, line, message",
    [
        ("", 1, "there is no such file"),
        ('{\n  "id": \n}', 3, "Expecting value"),
        (METADATA.rstrip("}\n") + ",\n}\n", None, "has a comma behind the last entry"),
        ('{\n "id": ["a",\n ]\n}', None, "has a comma behind the last entry"),
        ("// mine\n" + METADATA, 1, "is a comment, which JSON does not have"),
        (METADATA.replace('"title"', '/* mine */ "title"'), 3, "is a comment"),
        (METADATA.replace('"title"', '# mine\n"title"'), 3, "is a comment"),
        (METADATA.replace('"', "'"), 2, "has single quotes"),
        (METADATA.replace("true", "True"), 7, "is Python's word: write true, false or null"),
        (METADATA.replace('"is_private"', '"id": "",\n"is_private"'), 7, "id is there twice: keep one of them"),
        ('{\n"enable_internet": true,\n"enable_internet": false}', 3, "enable_internet is there twice"),
        ("}", 1, "Expecting value"),
        (METADATA[:99], 4, ""),
        ("[]", 1, "must be an object, {...}, not a list"),
        ("null", 1, "must be an object, {...}, not a NoneType"),
        ('"id"', 1, "must be an object, {...}, not a str"),
    ],
)
def test_metadata_that_cannot_be_read_are_refused(text, line, message):
    at = line or r"\d+"  # Python names the comma's line from 3.13 on
    with pytest.raises(BuildError, match=rf"^metadata.json:{at}: {re.escape(message)}"):
        check_metadata("metadata.json", text, "nuclei_kernel")


@pytest.mark.parametrize(
    "key, names",
    [
        ("competition_sources", ["other"]),
        ("dataset_sources", ["jane/cells", "Jane_Doe/c"]),
        ("kernel_sources", ["jane/cells"]),
        ("model_sources", ["google/bert-1.5/keras/base_en/2"]),
        ("id", "Some_One/data-science-bowl-2018-nuclei"),
    ],
)
def test_what_kaggle_takes_is_taken(key, names):
    assert check_metadata("metadata.json", json.dumps(json.loads(METADATA) | {key: names}, indent=2), "nuclei_kernel")


@pytest.mark.parametrize(
    "line, message",
    [
        ("\u00b5m", "not ASCII"),
        ("x" * 121, "over 120 columns"),
        ("0123456789abcdef" * 2, "a Kaggle key"),
        (f"KGAT_{'x' * 32}", "a Kaggle token"),
        ("/home/jane", "somebody's home"),
    ],
)
def test_what_may_not_be_published_is_refused_where_it_stands(line, message):
    check_lines("file", "x" * 120)
    with pytest.raises(BuildError, match=f"^file:2: .*{message}"):
        check_lines("file", f"fine\n{line}\nfine")
    with pytest.raises(BuildError, match=f"^metadata.json:3: .*{message}"):  # which are published, too
        check_metadata("metadata.json", METADATA.replace("Data Science Bowl 2018 nuclei", line), "nuclei_kernel")


def test_a_text_has_plain_newlines_and_none_is_empty(tmp_path):
    (tmp_path / "windows").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert read_text(tmp_path / "windows") == "one\ntwo\n"
    assert read_text(tmp_path / "missing") == ""


def test_the_rules_need_the_standard_library_alone():
    """build_kernel.py imports them, and runs with plain Python."""
    script = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); import nuclei_kit.kaggle.rules"
    subprocess.run([sys.executable, "-I", "-S", "-c", script], check=True)
