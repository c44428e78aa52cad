"""Client: whatever Kaggle's client raises is a sentence, and transient errors are retried. Commands: test_remote."""

import json
import sys
from types import SimpleNamespace

import pytest
import requests

from nuclei.settings.config import BadInput
from nuclei_kit.kaggle import client
from nuclei_kit.kaggle.client import Refusal, client_errors, is_web_page, read_refusal, retry, retry_after


def respond(status, content=b"", reason="", **headers):
    """A response as the client holds it."""
    response = requests.Response()
    response.status_code, response._content, response.reason = status, content, reason
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return response


# ---- what an answer says -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "response, code, words",
    [
        (respond(400, b'{"code": 403, "message": "Accept the rules."}'), 403, "Accept the rules"),
        (respond(400, b'{"error": "no such kernel"}'), 400, "no such kernel"),
        (respond(400, b"The source must be\nless than 1 megabytes"), 400, "The source must be less than 1 megabytes"),
        (respond(502, b" <!DOCTYPE html><p>Oops", "Bad Gateway"), 502, "Bad Gateway"),
        (respond(503, b"", "Service Unavailable"), 503, "Service Unavailable"),
        (respond(500, b"[1, 2]", "Internal Server Error"), 500, "Internal Server Error"),
        (respond(500, b"{}", "Internal Server Error"), 500, "Internal Server Error"),
    ],
)
def test_a_refusal_has_kaggles_own_code_and_words(response, code, words):
    assert read_refusal(response) == (code, words)


def test_long_words_are_cut():
    assert len(read_refusal(respond(400, b"word " * 1000))[1]) <= 400


@pytest.mark.parametrize("content, page", [(b"<?xml?>", True), (b"\n <html>", True), (b"a,b\n<1,2\n", False), (b"", 0)])
def test_a_page_is_told_from_a_file(content, page):
    assert is_web_page(content) == page


@pytest.mark.parametrize(
    "headers, wait",
    [({}, 0.0), ({"Retry_After": "7"}, 7.0), ({"Retry_After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 0.0)],
)
def test_kaggle_may_say_how_long_to_wait(headers, wait):
    assert retry_after(respond(429, **headers)) == wait


# ---- what goes wrong ---------------------------------------------------------------------------

SIGNED = "https://storage/file?signature=secret"
ERRORS = [
    # what the client raises, what becomes of it, its code, words of it
    (requests.HTTPError(response=respond(429, b"busy")), Refusal, 429, ["the push: ", "429", "busy"]),
    (
        requests.HTTPError(response=respond(401, b"Who?")),
        Refusal,
        401,
        ["the push: ", "401", "Who?", "KAGGLE_API_TOKEN"],
    ),
    (requests.ConnectionError(SIGNED), Refusal, 0, ["the push: ", "ConnectionError", "network"]),
    (requests.ReadTimeout(SIGNED), Refusal, 0, ["the push: ", "ReadTimeout", "network"]),
    (json.JSONDecodeError("no JSON", "", 0), BadInput, None, ["the push: ", "JSONDecodeError"]),
    (KeyError("PONDERING"), BadInput, None, ["the push: ", "KeyError"]),
    (ValueError("Title must be five characters"), BadInput, None, ["the push: ", "Title must be five characters"]),
    (BadInput("a sentence of ours"), BadInput, None, ["a sentence of ours"]),
]


@pytest.mark.parametrize("error, kind, code, words", ERRORS, ids=[type(row[0]).__name__ for row in ERRORS])
def test_what_the_client_raises_is_a_sentence(capsys, error, kind, code, words):
    with pytest.raises(kind) as raised, client_errors("the push"):
        print(SIGNED)
        raise error
    assert type(raised.value) is kind
    assert getattr(raised.value, "code", None) == code
    for word in words:
        assert word in str(raised.value)
    assert "secret" not in str(raised.value) + capsys.readouterr().out


def test_a_refusal_keeps_the_wait_that_kaggle_asks_for():
    with pytest.raises(Refusal) as raised, client_errors("the push"):
        raise requests.HTTPError(response=respond(429, b"busy", Retry_After="9"))
    assert raised.value.wait == 9


def test_an_answer_passes_and_what_is_printed_on_the_way_does_not(capsys):
    with client_errors("the push"):
        print(SIGNED)
        answer = 3
    assert answer == 3
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("error", [AttributeError("a bug"), KeyboardInterrupt()])
def test_a_bug_and_ctrl_c_pass_as_they_are(error):
    with pytest.raises(type(error)), client_errors("the push"):
        raise error


# ---- the key's file ----------------------------------------------------------------------------

KEY = '{"username": "jane", "key": "0"}'


@pytest.mark.parametrize(
    "content, why",
    [
        ("\ufeff" + KEY, "BOM"),
        (KEY[:25], "Unterminated string"),
        ("", "Expecting value"),
        ('["jane", "0"]', "it holds no username and key"),
        ("null", "it holds no username and key"),
        ('{"username": "jane"}', "it holds no username and key"),
        (KEY.encode("utf-16"), "can't decode"),
    ],
)
def test_a_broken_kaggle_json_is_named(tmp_path, content, why):
    path = tmp_path / "kaggle.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput, match=rf"^{path} is broken \(.*{why}.*\): make a new one at https://www\.kaggle\.com"):
        client.check_key_file(path)


def test_a_whole_kaggle_json_and_none_pass(tmp_path):
    client.check_key_file(tmp_path / "kaggle.json")
    (tmp_path / "kaggle.json").write_text(KEY)
    client.check_key_file(tmp_path / "kaggle.json")


@pytest.mark.parametrize("error", [SystemExit(1), NameError("name 'exit' is not defined"), TypeError(), ValueError()])
@pytest.mark.parametrize("content", [None, "{"])
def test_signing_in_says_whether_the_file_is_missing_or_broken(tmp_path, monkeypatch, error, content):
    """A notebook has no exit(), with which the client ends; on some files it ends otherwise."""

    def authenticate():
        raise error

    path = tmp_path / "kaggle.json"
    api = SimpleNamespace(authenticate=authenticate, config=str(path))
    monkeypatch.setitem(sys.modules, "kaggle", SimpleNamespace(api=api))
    if content:
        path.write_text(content)
        with pytest.raises(BadInput, match=rf"^{path} is broken"):
            client.sign_in()
    elif isinstance(error, SystemExit | NameError):
        with pytest.raises(BadInput, match=r"^Kaggle must know who you are"):
            client.sign_in()


def test_a_folder_that_the_client_cannot_make_is_named(monkeypatch):
    class Refuse:
        def find_spec(self, name, *_):
            if name == "kaggle":
                raise PermissionError(13, "Permission denied", "/proc/x")

    monkeypatch.delitem(sys.modules, "kaggle", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refuse(), *sys.meta_path])
    with pytest.raises(BadInput, match=r"cannot make its folder /proc/x \(Permission denied\): set KAGGLE_CONFIG_DIR"):
        client.sign_in()


@pytest.mark.parametrize("home, made", [("h", "h/.config/kaggle"), ("/proc/x", None), ("~", None)])
def test_the_client_does_without_a_folder_that_cannot_be_made(tmp_path, monkeypatch, home, made):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", "")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(client.os.path, "expanduser", lambda path: path.replace("~", home))
    monkeypatch.setattr(client.sys, "platform", "linux")
    client._spare_folder()
    assert client.os.environ["KAGGLE_CONFIG_DIR"] == ("" if made else client.os.devnull)
    assert [path.name for path in tmp_path.iterdir()] == (["h"] if made else [])


# ---- waiting -----------------------------------------------------------------------------------


@pytest.fixture
def naps(monkeypatch):
    """The seconds slept, without sleeping them."""
    slept = []
    monkeypatch.setattr(client.time, "sleep", slept.append)
    return slept


def failing(*errors):
    """A call that raises one error after another, the last one for ever; None stands for an answer."""
    queue = list(errors)

    def call():
        error = queue.pop(0) if len(queue) > 1 else queue[0]
        if error:
            raise error
        return "answer"

    return call


def test_transient_errors_are_retried_after_ever_longer_waits(naps, capsys):
    assert retry(failing(Refusal("busy", 503), Refusal("busy", 429), Refusal("gone", 0), None), 2) == "answer"
    assert naps == [2, 4, 8]
    assert "busy; try 2 of 8" in capsys.readouterr().out


def test_kaggles_own_pace_counts_up_to_a_limit(naps):
    retry(failing(Refusal("busy", 429, wait=60.0), Refusal("busy", 429, wait=1e6), None), 2)
    assert naps == [60, client.MAX_WAIT]


def test_patience_ends(naps):
    with pytest.raises(Refusal, match="busy"):
        retry(failing(Refusal("busy", 503)), 1)
    assert len(naps) == client.MAX_TRIES - 1


@pytest.mark.parametrize("error", [Refusal("forbidden", 403), BadInput("no such file")])
def test_other_errors_are_raised_at_once(naps, error):
    with pytest.raises(type(error)):
        retry(failing(error), 1)
    assert naps == []
