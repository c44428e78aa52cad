"""To Kaggle and back (remote, competition, client): the real client against a stub of Kaggle."""

import io
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import pytest
from drawn_files import read_folder
from kaggle_stub import SECRET, client_environment, play

from nuclei_kit.command.cli import main
from nuclei_kit.kaggle import remote
from nuclei_kit.kaggle.kernel import METADATA, ROOT, SCRIPT
from nuclei_kit.kaggle.remote import Push, read_kernel_log

KERNEL = "tester/data-science-bowl-2018-nuclei"
URL = f"https://www.kaggle.com/code/{KERNEL}"
CSV = b"ImageId,EncodedPixels\na,1 3\nb,\n"
EMPTY = b"ImageId,EncodedPixels\na,\nb,\n"
PAGE = b"<!DOCTYPE html><html><body>The address has expired</body></html>"
# From 2.2.5 on the client looks at the status of a download; before, what came with it passed for the file.
SEES_STATUS = tuple(map(int, version("kaggle").split(".")[:3])) >= (2, 2, 5)
LOG = "".join(
    f'{mark}{{"stream_name":"stdout","time":{n}.5,"data":"{line}\\n"}}\n'
    for n, (mark, line) in enumerate([("[", "epoch 1"), (",", "no GPU")])
)


def status(name, message=None):
    return {"status": name} | ({"failureMessage": message} if message else {})


def listed(*names, **more):
    files = [{"url": f"http://localhost/files/{name}?signature={SECRET}", "fileName": name} for name in names]
    return {"files": files, "log": LOG, **more}


SAVED = {"ref": f"/code/{KERNEL}", "url": URL, "versionNumber": 3, "kernelId": 7}
SUCCESS = "Successfully submitted to 2018 Data Science Bowl"
HAPPY = {
    "SaveKernel": SAVED,
    "GetKernelSessionStatus": [status(name) for name in ("COMPLETE", "QUEUED", "RUNNING", "RUNNING", "COMPLETE")],
    "ListKernelSessionOutput": listed("submission.csv", "model.weights.h5"),
    "submission.csv": CSV,
    "model.weights.h5": b"\x89HDF",
    "StartSubmissionUpload": {"token": "blob", "createUrl": f"http://localhost/upload?signature={SECRET}"},
    "upload": "",
    "CreateSubmission": {"message": SUCCESS, "ref": 11},
    "GetSubmissionLimits": {"numAllowedNow": 4},
}
PUSH = ["push", "--kernel", "kernel", "--owner", "tester"]
WATCH = ["watch", "--every", "0"]
FETCH = ["fetch", "--out", "out"]
SUBMIT = ["submit", "out", "-m", "first"]
SHIP = ["ship", "-m", "first", *PUSH[1:], *WATCH[1:], *FETCH[1:]]


@pytest.fixture
def nuclei(tmp_path, monkeypatch, capsys):
    """nuclei(command, replies) -> exit status, stdout, stderr, stub; beside a kernel and an earlier submission."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote, "PUSH_FILE", tmp_path / "build" / "pushed.json")
    monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.02)))
    shutil.copytree(ROOT / "kernel", "kernel")
    os.mkdir("out")
    (tmp_path / "out" / "submission.csv").write_bytes(CSV)

    def run(command, replies=HAPPY, **changes):
        with play(replies) as stub:
            environ = {**clean_environment(), **client_environment(tmp_path, stub.address), **changes}
            for name in set(os.environ) - set(environ):
                monkeypatch.delenv(name)
            for name, value in environ.items():
                monkeypatch.setenv(name, value)
            code = main(command)
        said = capsys.readouterr()
        assert SECRET not in said.out + said.err
        return code, said.out, said.err, stub

    return run


@pytest.fixture(scope="module", autouse=True)
def forget_the_client():
    """The client reads some of the environment as it is imported: what it found here is not for other tests."""
    yield
    forget()


def forget():
    for name in [name for name in sys.modules if name.split(".")[0] in ("kaggle", "kagglesdk")]:
        del sys.modules[name]


def clean_environment():
    return {name: value for name, value in os.environ.items() if "kaggle" not in name.lower() and "proxy" not in name}


def remember(version=3, age=0.0):
    path = remote.PUSH_FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(Push(KERNEL, version, URL, time.time() - age))))


# ---- what each step sends and says -------------------------------------------------------------


def test_push_posts_the_kernel_as_it_is(nuclei):
    code, out, _, stub = nuclei(PUSH)
    assert code == 0
    assert f"version 3 of {KERNEL}: {URL}" in out
    (body,) = stub.bodies("SaveKernel")
    assert body["text"].encode() == (ROOT / SCRIPT).read_bytes()
    metadata = json.loads((ROOT / METADATA).read_text())
    expected = {
        "slug": KERNEL,
        "newTitle": metadata["title"],
        "language": "python",
        "kernelType": "script",
        "competitionDataSources": ["data-science-bowl-2018"],
        "isPrivate": True,
        "enableGpu": True,
        "enableInternet": False,
        "machineShape": "NvidiaTeslaT4",
    }
    assert {key: body.get(key, False) for key in expected} == expected


def test_a_slug_brings_its_title(nuclei):
    before = (ROOT / METADATA).read_text()
    code, _, _, stub = nuclei([*PUSH, "--slug", "second-try"])
    assert code == 0
    (body,) = stub.bodies("SaveKernel")
    assert (body["slug"], body["newTitle"]) == ("tester/second-try", "second try")
    assert (ROOT / METADATA).read_text() == before == Path("kernel/kernel-metadata.json").read_text()


def test_watch_follows_the_pushed_version_to_its_end(nuclei):
    remember()
    events = "".join(f"data: {json.dumps({'data': f'epoch {n}'})}\n\n" for n in (1, 2)) + "data: END_OF_LOG\n\n"
    stream = (200, events, {"Content-Type": "text/event-stream"})
    code, out, _, stub = nuclei(WATCH, HAPPY | {KERNEL.split("/")[1]: stream})
    assert code == 0
    states = [line.split(": ")[1] for line in out.splitlines() if KERNEL in line]
    assert states == ["COMPLETE, perhaps of an earlier version", "QUEUED", "RUNNING", "COMPLETE"]
    assert out.count("epoch 1\n") == out.count("epoch 2\n") == 1  # though each stream starts from the beginning
    asked = {"userName": "tester", "kernelSlug": KERNEL.split("/")[1], "versionLabel": "v3"}
    assert stub.bodies("GetKernelSessionStatus") == [asked] * 5


@pytest.mark.parametrize("version, age, requests", [(1, 0, 1), (3, 3600, 1), (3, 0, remote.MAX_STALE_STATUSES + 1)])
def test_an_end_is_believed_where_it_cannot_be_of_the_run_before(nuclei, version, age, requests):
    remember(version, age)
    code, _, _, stub = nuclei(WATCH, HAPPY | {"GetKernelSessionStatus": status("COMPLETE")})
    assert code == 0
    assert len(stub.bodies("GetKernelSessionStatus")) == requests


def test_a_kernel_that_was_not_pushed_from_here_can_be_watched(nuclei):
    remember()
    code, out, _, stub = nuclei([*WATCH, "--owner", "other"])
    assert code == 0
    assert "other/" in out
    assert stub.bodies("GetKernelSessionStatus")[0] == {"userName": "other", "kernelSlug": KERNEL.split("/")[1]}


@pytest.mark.parametrize(
    "end, words",
    [
        (status("ERROR", "Your notebook ran out of memory."), ["ERROR", "out of memory", "  no GPU", URL]),
        (status("ERROR"), ["ERROR", "  epoch 1", "did not complete. See"]),
        (status("CANCEL_ACKNOWLEDGED"), ["CANCEL_ACKNOWLEDGED", "did not complete: cancelled"]),
    ],
)
def test_a_run_that_fails_has_its_exit_status_and_ends_with_its_log(nuclei, end, words):
    remember()
    code, out, err, _ = nuclei(WATCH, HAPPY | {"GetKernelSessionStatus": [status("QUEUED"), status("RUNNING"), end]})
    assert code == 1
    assert err == ""
    for word in words:
        assert word in out


def test_watch_retries_after_transient_errors(nuclei):
    remember()
    busy = (429, {"code": 429, "message": "Too many requests"}, {"Retry-After": "1"})
    answers = [status("RUNNING"), busy, (503, PAGE), (404, {"code": 404, "message": "Not found"}), status("COMPLETE")]
    code, out, _, _ = nuclei(WATCH, HAPPY | {"GetKernelSessionStatus": answers})
    assert code == 0
    assert "429, Too many requests; try 2 of 8 in 1 s" in out
    assert "503, Service Unavailable; try 3 of 8" in out


def test_fetch_puts_every_file_in_place(nuclei):
    code, out, _, _ = nuclei([*FETCH, "--owner", "tester"], HAPPY | {"submission.csv": CSV + b"c,4 1\n"})
    assert code == 0
    assert "out/submission.csv" in out
    assert Path("out/submission.csv").read_bytes() == CSV + b"c,4 1\n"
    assert sorted(os.listdir("out")) == [f"{KERNEL.split('/')[1]}.log", "model.weights.h5", "submission.csv"]


def test_fetch_reads_every_page(nuclei):
    pages = [listed("model.weights.h5", nextPageToken="2"), listed("submission.csv")]
    code, _, _, stub = nuclei([*FETCH, "--owner", "tester"], HAPPY | {"ListKernelSessionOutput": pages})
    assert code == 0
    assert [body.get("pageToken") for body in stub.bodies("ListKernelSessionOutput")] == ["", "2"]


def test_submit_uploads_the_file_and_prints_the_reply(nuclei):
    code, out, _, stub = nuclei(SUBMIT)
    assert code == 0
    assert out == f"{SUCCESS} (4 left today)\n"
    assert stub.bodies("upload") == [CSV]
    (body,) = stub.bodies("CreateSubmission")
    assert body == {
        "competitionName": "data-science-bowl-2018",
        "blobFileTokens": "blob",
        "submissionDescription": "first",
    }
    assert nuclei(SUBMIT, HAPPY | {"GetSubmissionLimits": (500, "")})[:2] == (0, f"{SUCCESS}\n")


def test_download_gets_what_is_missing_and_no_more(nuclei):
    files = {"stage1_test.zip": b"PK", "stage1_train_labels.csv.zip": b"PK labels"}
    sizes = [{"name": name, "totalBytes": len(content)} for name, content in files.items()]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as package:
        for name, content in files.items():
            package.writestr(name, content)
    replies = {
        "ListDataFiles": [{"files": sizes[:1], "nextPageToken": "2"}, {"files": sizes[1:]}],
        "DownloadDataFiles": (302, "", {"Location": f"http://localhost/files/archive.zip?signature={SECRET}"}),
        "archive.zip": archive.getvalue(),
    }
    assert nuclei(["download", "new"], replies)[:2] == (0, "new is complete: 2 files came, 0 were there.\n")
    assert read_folder("new") == files
    code, out, _, stub = nuclei(["download", "new"], replies)
    assert (code, out) == (0, "new is complete: 0 files came, 2 were there.\n")
    assert not stub.bodies("DownloadDataFiles")
    Path("new/stage1_test.zip").write_bytes(b"P")  # a half file
    assert nuclei(["download", "new"], replies)[0] == 0
    assert read_folder("new") == files
    spoilt = replies | {"archive.zip": archive.getvalue()[:-30]}
    os.remove("new/stage1_test.zip")
    code, _, err, _ = nuclei(["download", "new"], spoilt)
    assert code == 2 and "damaged" in err
    assert os.listdir("new") == ["stage1_train_labels.csv.zip"]


# ---- the whole way -----------------------------------------------------------------------------


def test_ship_from_a_fresh_clone(tmp_path):
    clone = tmp_path / "a clone"
    for name in ("src", "kernel"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "build_kernel.py", clone)
    (clone / SCRIPT).unlink()  # it is built
    with play(HAPPY) as stub:
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(clone / "src")}
        environ |= client_environment(tmp_path, stub.address)
        command = [
            sys.executable,
            "-m",
            "nuclei_kit",
            "ship",
            "--owner",
            "tester",
            "-m",
            "first",
            "--every",
            "0.01",
        ]
        done = subprocess.run(command, cwd=clone, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert said[0] == f"Kaggle runs version 3 of {KERNEL}: {URL}"
    assert said[-2:] == [f"submission/submission.csv is what version 3 of {KERNEL} left.", f"{SUCCESS} (4 left today)"]
    assert (clone / "submission" / "submission.csv").read_bytes() == CSV
    assert stub.bodies("SaveKernel")[0]["text"] == (ROOT / SCRIPT).read_text()
    order = list(dict.fromkeys(part for part, _ in stub.asked if not part.startswith("data-science")))
    assert order[:2] == ["SaveKernel", "GetKernelSessionStatus"]
    assert order[-3:] == ["upload", "CreateSubmission", "GetSubmissionLimits"]


def test_ship_stops_at_a_run_that_fails(nuclei):
    code, _, err, stub = nuclei(SHIP, HAPPY | {"GetKernelSessionStatus": [status("QUEUED"), status("ERROR", "why")]})
    assert (code, err) == (1, "")
    assert not stub.bodies("submission.csv") + stub.bodies("StartSubmissionUpload")


# ---- failures: one sentence, and what was there stays ------------------------------------------


def saved(**changes):
    return {"SaveKernel": SAVED | changes}


def refusal(*words):
    """What is said of a download that Kaggle refuses with 403: `words`, where the client does not see it."""
    return ["output of version 3", "403"] if SEES_STATUS else list(words)


def state(reply):
    return {"GetKernelSessionStatus": reply}


def output(reply):
    return {"ListKernelSessionOutput": reply}


def submission(content):
    return output(listed("submission.csv")) | {"submission.csv": content}


def refused(part, code, words):
    return {part: (code, {"code": code, "message": words})}


TOO_LARGE = (400, "The kernel source must be less than 1 megabytes")
TOO_MANY = "Maximum batch GPU session count of 2 reached."
NO_DATA = saved(invalidCompetitionSources=["data-science-bowl-2018"])
NO_MORE = "Your team has used its submissions for today"
DOWNLOAD = ["download", "out"]
FAILURES = {
    # name: what Kaggle says in place of the happy replies; the command; words of the sentence; the last request
    "push: too large": ({"SaveKernel": TOO_LARGE}, PUSH, ["400", "less than 1 megabytes"], "SaveKernel"),
    "push: too large, as JSON": (refused("SaveKernel", 400, "1 mega"), PUSH, ["400", "1 mega"], "SaveKernel"),
    "push: two sessions": (saved(error=TOO_MANY), SHIP, [TOO_MANY], "SaveKernel"),
    "push: no data": (NO_DATA, SHIP, ["competition data-science-bowl-2018", "/rules", URL], "SaveKernel"),
    "push: no version": ({"SaveKernel": {"url": URL}}, PUSH, ["no version", URL], "SaveKernel"),
    "push: an unknown key": (refused("SaveKernel", 401, "Who?"), PUSH, ["401", "KAGGLE_KEY"], "SaveKernel"),
    "push: no JSON": ({"SaveKernel": PAGE}, PUSH, ["cannot read"], "SaveKernel"),
    "push: a page for an error": ({"SaveKernel": (502, PAGE)}, PUSH, ["502", "Bad Gateway"], "SaveKernel"),
    "watch: busy for good": (state((429, "")), WATCH, ["429"], "GetKernelSessionStatus"),
    "watch: not yours": (
        refused("GetKernelSessionStatus", 403, "Permission denied"),
        WATCH,
        ["403", "denied"],
        "GetKernelSessionStatus",
    ),
    "watch: an unknown state": (state(status("PONDERING")), WATCH, ["cannot read"], "GetKernelSessionStatus"),
    "fetch: not ended": (state(status("RUNNING")), FETCH, ["RUNNING", "nuclei watch"], "GetKernelSessionStatus"),
    "fetch: no files": (output({"files": []}), FETCH, ["no files", URL], "ListKernelSessionOutput"),
    "fetch: only a log": (output(listed()), FETCH, ["no files", URL], "ListKernelSessionOutput"),
    "ship: no files": (output(listed()), SHIP, ["no files"], "ListKernelSessionOutput"),
    "fetch: no submission": (
        output(listed("model.weights.h5")),
        FETCH,
        ["model.weights.h5", "no submission.csv"],
        "model.weights.h5",
    ),
    "fetch: an error page": (submission(PAGE), FETCH, ["submission.csv", "page"], "submission.csv"),
    "fetch: an error page with its status": (
        submission((403, b"<?xml?><Error/>")),
        FETCH,
        refusal("submission.csv", "page"),
        "submission.csv",
    ),
    "fetch: an error in words": (
        submission((403, "expired")),
        FETCH,
        refusal("submission.csv", "ImageId"),
        "submission.csv",
    ),
    "ship: an error page": (submission(PAGE), SHIP, ["submission.csv", "page"], "submission.csv"),
    "fetch: another file's page": (
        {"model.weights.h5": (403, PAGE)},
        FETCH,
        refusal("model.weights.h5", "page"),
        "model.weights.h5",
    ),
    "fetch: a broken rule": (submission(CSV + b"a,2 2\n"), FETCH, ["row 4"], "submission.csv"),
    "fetch: a placeholder": (submission(EMPTY), FETCH, ["placeholder"], "submission.csv"),
    "ship: a placeholder": (submission(EMPTY), SHIP, ["placeholder"], "submission.csv"),
    "fetch: a page is missing": (
        output([listed(nextPageToken="2"), (500, "")]),
        FETCH,
        ["500"],
        "ListKernelSessionOutput",
    ),
    "fetch: cut short": (
        submission((200, CSV, {"Content-Length": 999})),
        FETCH,
        ["output of version 3", "network"],
        "submission.csv",
    ),
    "submit: the upload fails": ({"upload": (403, "")}, SUBMIT, ["Could not submit"], "upload"),
    "submit: no success": (
        {"CreateSubmission": {"message": NO_MORE, "ref": 0}},
        SUBMIT,
        ["submission.csv", NO_MORE],
        "CreateSubmission",
    ),
    "submit: refused": (refused("CreateSubmission", 400, "closed"), SUBMIT, ["400", "closed"], "CreateSubmission"),
    "submit: not entered": (
        refused("StartSubmissionUpload", 403, "Accept the rules"),
        SUBMIT,
        ["Accept the rules"],
        "StartSubmissionUpload",
    ),
    "download: not entered": (refused("ListDataFiles", 403, "no"), DOWNLOAD, ["403", "/rules"], "ListDataFiles"),
    "download: nothing": ({"ListDataFiles": {"files": []}}, DOWNLOAD, ["no files"], "ListDataFiles"),
    "download: a page": (
        {"ListDataFiles": {"files": [{"name": "a.zip", "totalBytes": 9}]}, "DownloadDataFiles": PAGE},
        DOWNLOAD,
        ["damaged"],
        "DownloadDataFiles",
    ),
}


@pytest.mark.parametrize("replies, command, words, last", FAILURES.values(), ids=FAILURES)
def test_a_failure_is_a_sentence_and_leaves_what_was_there(nuclei, replies, command, words, last):
    if command[0] in ("watch", "fetch"):
        remember(age=3600)
    over = {"GetKernelSessionStatus": [status("QUEUED"), status("COMPLETE")] if command == SHIP else status("COMPLETE")}
    code, _, err, stub = nuclei(command, HAPPY | over | replies)
    assert code == 2
    (sentence,) = err.splitlines()
    assert sentence.startswith("nuclei: error: ")
    for word in words:
        assert word in sentence
    assert stub.asked[-1][0] == last  # nothing is requested after the failure
    assert os.listdir("out") == ["submission.csv"]
    assert Path("out/submission.csv").read_bytes() == CSV


UNSENT = [
    ("placeholder owner", PUSH[:3], ["kernel-metadata.json", "OWNER", "--owner NAME"]),
    ("placeholder owner, ship", ["ship", "-m", "first", *PUSH[1:3]], ["OWNER", "--owner NAME"]),
    ("short slug", [*PUSH, "--slug", "abcd"], ["kernel-metadata.json", "5 characters"]),
    ("long slug", [*PUSH, "--slug", "a" * 60], ["kernel-metadata.json", "50 at most"]),
    ("slug in capitals", [*PUSH, "--slug", "My-Nuclei"], ["kernel-metadata.json", "a-z"]),
    ("a push that is not remembered", WATCH, ["pushed.json", "is broken: delete it"]),
    ("no kernel", ["push", "--kernel", "elsewhere"], ["elsewhere/kernel-metadata.json", "no such file"]),
    ("nothing pushed", WATCH, ["OWNER", "--owner NAME"]),
    ("placeholder submission", ["submit", "empty.csv", "-m", "first"], ["empty.csv", "placeholder"]),
    ("broken submission", ["submit", "broken.csv", "-m", "first"], ["broken.csv", "row 2"]),
    ("no submission", ["submit", "kernel", "-m", "first"], ["kernel/submission.csv", "missing"]),
    ("no message", ["submit", "out"], ["--message"]),
    ("no time", ["watch", "--every", "soon"], ["--every", "soon"]),
]


@pytest.mark.parametrize("command, words", [row[1:] for row in UNSENT], ids=[row[0] for row in UNSENT])
def test_nothing_is_sent_that_kaggle_would_refuse(nuclei, tmp_path, command, words):
    (tmp_path / "empty.csv").write_bytes(EMPTY)
    (tmp_path / "broken.csv").write_bytes(CSV.replace(b"1 3", b"1 x"))
    if "pushed.json" in words:
        remember()
        remote.PUSH_FILE.write_bytes(remote.PUSH_FILE.read_bytes()[:-9])
    code, _, err, stub = nuclei(command)
    assert code == 2
    assert stub.asked == []
    for word in words:
        assert word in err


# ---- signing in --------------------------------------------------------------------------------


def test_without_credentials_it_says_how_to_give_them(tmp_path):
    with play(HAPPY) as stub:
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src")}
        environ |= client_environment(tmp_path, stub.address)
        del environ["KAGGLE_USERNAME"], environ["KAGGLE_KEY"]
        command = [sys.executable, "-m", "nuclei_kit", "download", "out"]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stdout, stub.asked) == (2, "", [])
    (sentence,) = done.stderr.splitlines()
    for word in ("KAGGLE_API_TOKEN", "access_token", "KAGGLE_USERNAME", "KAGGLE_KEY", "kaggle.json", "auth login"):
        assert word in sentence


def test_a_token_signs_in_too_but_one_that_ended_does_not(nuclei):
    token = {"KAGGLE_API_TOKEN": f"KGAT_{SECRET}", "KAGGLE_USERNAME": "", "KAGGLE_KEY": ""}
    active = {"active": True, "username": "tester"}
    assert nuclei(SUBMIT, HAPPY | {"IntrospectToken": active}, **token)[0] == 0
    ended = {"IntrospectToken": {"active": False}, "StartSubmissionUpload": (401, {"code": 401, "message": "Who?"})}
    code, _, err, _ = nuclei(SUBMIT, HAPPY | ended, **token)
    assert code == 2
    assert "Who?" in err and "KAGGLE_API_TOKEN" in err


def test_what_the_client_prints_of_its_requests_is_dropped(nuclei):
    forget()
    assert nuclei(SUBMIT, VERBOSE="1")[1] == f"{SUCCESS} (4 left today)\n"  # Authorization would be in it
    assert "--verbose" in sys.modules["kaggle"].api.args
    forget()


def test_without_the_client_it_says_how_to_install_it(nuclei, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaggle", None)
    code, _, err, _ = nuclei(SUBMIT)
    assert code == 2
    assert 'pip install -e ".[workshop]"' in err


def test_out_of_reach_is_a_sentence(nuclei):
    nowhere = dict.fromkeys(("http_proxy", "HTTP_PROXY"), "http://127.0.0.1:9")
    code, _, err, _ = nuclei(PUSH, **nowhere)
    assert code == 2
    assert "out of reach" in err and len(err.splitlines()) == 1


def test_the_command_line_starts_without_the_client():
    script = "import sys, nuclei_kit.command.cli, nuclei_kit.kaggle.remote; "
    script += 'assert not {"kaggle", "requests"} & set(sys.modules)'
    environ = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", script], check=True, env=environ)


@pytest.mark.parametrize(
    "log, lines",
    [
        (LOG, ["epoch 1", "no GPU"]),
        ('[{"data": "a"}, {"data": "b\\nc"}]', ["ab", "c"]),
        ('{"data": "a\\n"}\n{"data": "b\\n"}', ["a", "b"]),
        ('[{"data": "a\\n"}\n,{"data": "b', ["a", ',{"data": "b']),
        ("plain\nwords", ["plain", "words"]),
        ('{"data": "a\\n"}', ["a"]),
        ("12\n[3]\n", ["12", "3"]),
        ("", []),
    ],
)
def test_a_log_reads_as_it_was_printed(log, lines):
    assert read_kernel_log(log) == lines
