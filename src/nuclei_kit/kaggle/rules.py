"""Rules: what a kernel and its kernel-metadata.json must keep to before Kaggle gets them.

Kaggle's client ignores some of what is wrong in them, and fails late at the rest. This module needs the standard
library alone, since build_kernel.py imports it and runs with nothing installed.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

LINE_LENGTH = 120
OLDEST_PYTHON = (3, 11)  # that the kernel and the kit run on
SESSION_MINUTES = 720.0  # minutes that Kaggle gives a session
SECRETS = {
    "a Kaggle key": re.compile(r"(?<![0-9a-fA-F])[0-9a-f]{32}(?![0-9a-fA-F])"),
    "a Kaggle token": re.compile(r"KGAT_\w+"),
    "the path of somebody's home": re.compile(r"(?<![\w.])(/home/\w|/Users/\w|/root\b|[A-Z]:\\+Users\b)"),
}
METADATA_TYPES: dict[str, type] = {
    **dict.fromkeys(("id", "title", "code_file", "language", "kernel_type", "machine_shape"), str),
    **dict.fromkeys(("is_private", "enable_gpu", "enable_tpu", "enable_internet"), bool),
    **dict.fromkeys(("competition_sources", "dataset_sources", "kernel_sources", "model_sources"), list),
}
# How sources are named, and prefixes that kaggle kernels pull and addresses have, with which Kaggle does not find them.
SOURCES = {
    "competition_sources": ("SLUG", r"[a-z0-9-]+", r"(.*/)?(c|competitions)/"),
    "dataset_sources": ("OWNER/SLUG", r"[\w-]+/[\w-]+", r"(.*/)?datasets/"),
    "kernel_sources": ("OWNER/SLUG", r"[\w-]+/[\w-]+", r"(.*/)?(code|kernels)/"),
    "model_sources": ("OWNER/MODEL/FRAMEWORK/VARIATION/VERSION", r"[\w-]+/[\w.-]+/\w+/[\w.-]+/\d+", r"(.*/)?models/"),
}
LONGEST_SLUG = 50  # characters; Kaggle answers longer titles with a server error
MACHINE_SHAPES = ("NvidiaTeslaT4", "NvidiaL4", "NvidiaL4X1", "NvidiaTeslaA100", "NvidiaH100", "NvidiaRtxPro6000")


class BuildError(Exception):
    """Why there can be no kernel: file, line and what is wrong."""

    def __init__(self, path: str | Path, line: int | None, message: str):
        super().__init__(f"{path}:{line or 1}: {message}")


def read_text(path: Path) -> str:
    """Read a file's text with plain newlines and without a byte-order mark; "" where there is no file."""
    return path.read_text(encoding="utf-8-sig", errors="replace") if path.is_file() else ""


def check_lines(path: str | Path, text: str) -> None:
    """Refuse lines that may not be published: long ones, others than ASCII, and those that hold a secret."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.isascii():
            raise BuildError(path, number, "not ASCII")
        if len(line) > LINE_LENGTH:
            raise BuildError(path, number, f"over {LINE_LENGTH} columns")
        for what, pattern in SECRETS.items():
            if pattern.search(line):
                raise BuildError(path, number, f"this looks like {what}, and it would be published")


def check_metadata(path: str | Path, text: str, kernel: str) -> dict[str, Any]:
    """Check the text of a kernel-metadata.json -> what it holds.

    The owner may still be a placeholder, since a build needs no account: whatever pushes the kernel refuses it.

    Args:
        path: what errors call the file.
        kernel: the name of the kernel's file, without its ending.

    Raises:
        BuildError: the first broken rule, and its line.
    """
    if not text:
        raise BuildError(path, 1, "there is no such file, and Kaggle needs one")
    check_lines(path, text)
    try:
        data = json.loads(text, object_pairs_hook=lambda pairs: _take_once(path, text, pairs))
    except json.JSONDecodeError as error:
        raise BuildError(path, error.lineno, _describe_json(error)) from None
    except RecursionError:
        raise BuildError(path, 1, "is nested too deep") from None
    if not isinstance(data, dict):
        raise BuildError(path, 1, f"must be an object, {{...}}, not a {type(data).__name__}")

    def demand(key, kept, message):
        if not kept:
            raise BuildError(path, text[: max(text.find(f'"{key}"'), 0)].count("\n") + 1, f"{key} {message}")

    for key, kind in METADATA_TYPES.items():
        demand(key, key in data, "is missing")
        demand(key, isinstance(data[key], kind), f"must be a {kind.__name__}")
    for key in data:
        demand(key, key in METADATA_TYPES, "is a key that Kaggle ignores, or that this kernel has no use for")
    title_slug = re.sub("[^a-z0-9]+", "-", data["title"].lower()).strip("-")
    code_file = kernel + (".ipynb" if data["kernel_type"] == "notebook" else ".py")
    slug_rule = f"must be OWNER/SLUG, the slug 5 characters or more, {LONGEST_SLUG} at most: a-z, 0-9 and -"
    demand("id", re.fullmatch(rf"[\w-]+/[a-z0-9-]{{5,{LONGEST_SLUG}}}", data["id"]), slug_rule)
    demand("title", len(data["title"]) <= LONGEST_SLUG, f"must have {LONGEST_SLUG} characters at most")
    demand("title", title_slug == data["id"].split("/")[1], f"gives the slug {title_slug}, and id another")
    demand("language", data["language"] == "python", "must be python")
    demand("kernel_type", data["kernel_type"] in ("script", "notebook"), "must be script or notebook")
    demand("code_file", data["code_file"] == code_file, f"must be {code_file}")
    demand("machine_shape", data["machine_shape"] in MACHINE_SHAPES, f"must be one of {', '.join(MACHINE_SHAPES)}")
    demand("enable_gpu", data["enable_gpu"], "must be true, or the machine_shape goes for nothing")
    demand("enable_tpu", not data["enable_tpu"], "must be false: a session has one accelerator, and this is a GPU's")
    demand("enable_internet", not data["enable_internet"], "must be false: the kernel needs no network")
    demand("competition_sources", data["competition_sources"], "must name a competition, or there are no images")
    demand("competition_sources", len(data["competition_sources"]) == 1, "must name one competition, and once")
    for key, (form, pattern, prefix) in SOURCES.items():
        for source in data[key]:
            bare = re.sub(rf"^{prefix}", "", str(source)).strip("/")
            hint = f", {bare}" if re.fullmatch(pattern, bare) else ""
            fits = isinstance(source, str) and re.fullmatch(pattern, source)
            demand(key, fits and not re.match(prefix, source), f"must name {source!r} as {form}{hint}")
    return data


def _take_once(path, text, pairs):
    """Make a dict of the keys and values of an object, each key once: of two, JSON's readers take the last."""
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:
            line = text[: text.rfind(f'"{key}"')].count("\n") + 1
            raise BuildError(path, line, f"{key} is there twice: keep one of them")
    return dict(pairs)


def _describe_json(error):
    """Say what is wrong with a text that is not JSON, where it is one of the usual mistakes, and what to do."""
    rest = error.doc[error.pos :].lstrip(", \t\r\n")
    before = error.doc[: error.pos + 1].rstrip(" \t\r\n}]")
    if rest.startswith(("//", "/*", "#")):
        return "is a comment, which JSON does not have: delete it"
    if rest.startswith("'"):
        return "has single quotes: JSON has double quotes alone"
    if rest.startswith(("True", "False", "None")):
        return "is Python's word: write true, false or null"
    if rest.startswith(("}", "]")) and before.endswith(","):
        return "has a comma behind the last entry: delete it"
    return error.msg
