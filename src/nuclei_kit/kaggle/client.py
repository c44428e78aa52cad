"""Client: Kaggle's own client, signed in, and its failures as sentences.

The client prints where others raise, calls some failures successes, and drops the server's words. So its replies are
checked here, and what it prints is dropped: there may be an address in it that is as good as a password.
"""

import contextlib
import io
import json
import os
import sys
import textwrap
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nuclei.settings.config import BadInput

if TYPE_CHECKING:
    import requests

SIGN_IN = (
    "Kaggle must know who you are, and the client found no credentials that work: make a token at "
    "https://www.kaggle.com/settings/api, and give it as KAGGLE_API_TOKEN or in ~/.kaggle/access_token; or give "
    "KAGGLE_USERNAME and KAGGLE_KEY, or ~/.kaggle/kaggle.json; or run kaggle auth login"
)
TRANSIENT_CODES = frozenset({0, 429, 500, 502, 503, 504})  # HTTP statuses worth a retry; 0 stands for no answer
MAX_TRIES = 8
MAX_WAIT = 300  # seconds between two tries

T = TypeVar("T")


class Refusal(BadInput):
    """Kaggle answered with an error, or not at all."""

    def __init__(self, sentence: str, code: int = 0, wait: float = 0.0):
        super().__init__(sentence)
        self.code = code  # HTTP status, 0 where there was no answer
        self.wait = wait  # seconds that Kaggle asks for


def sign_in() -> Any:
    """Sign in -> Kaggle's client, a KaggleApi.

    Raises:
        BadInput: the client is not installed, or finds no credentials that work.
    """
    _spare_folder()
    with client_errors("signing in to Kaggle"):
        try:
            import kaggle  # signs in by itself, and prints a page where it cannot
        except ImportError as error:
            hint = 'pip install -e ".[workshop]"'
            raise BadInput(f"Kaggle's client does not start ({error}): install it with {hint}") from None
        except OSError as error:
            raise BadInput(
                f"Kaggle's client cannot make its folder {error.filename} ({error.strerror}): set KAGGLE_CONFIG_DIR to "
                "a folder that can be written"
            ) from None
        try:
            kaggle.api.authenticate()
        except (SystemExit, NameError):  # it calls exit(), which notebooks do not have
            check_key_file(Path(kaggle.api.config))
            raise BadInput(SIGN_IN) from None
        except (ValueError, TypeError, AttributeError):  # as the client ends on a file that holds a list, say
            check_key_file(Path(kaggle.api.config))
            raise
        return kaggle.api


def _spare_folder():
    """Tell the client to do without a folder of its own where it has none and can make none, as in a container whose
    user has no home: else it would end in the attempt, or make a folder named ~ where it is started."""
    home = os.path.expanduser("~")
    settings = os.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    folders = os.path.join(home, ".kaggle"), os.path.join(settings, "kaggle")
    if os.environ.get("KAGGLE_CONFIG_DIR") or any(map(os.path.isdir, folders)):
        return
    try:
        os.makedirs(os.devnull if home == "~" else folders[sys.platform.startswith("linux")])
    except OSError:
        os.environ["KAGGLE_CONFIG_DIR"] = os.devnull


def check_key_file(path: Path) -> None:
    """Raise BadInput where a kaggle.json is broken: the client would pass it over without a word."""
    if not path.is_file():
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        why = error.strerror
    except ValueError as error:
        why = str(error)
    else:
        held = [name for name in ("username", "key") if isinstance(content, dict) and content.get(name)]
        why = "" if len(held) == 2 else "it holds no username and key"
    if why:
        raise BadInput(f"{path} is broken ({why}): make a new one at https://www.kaggle.com/settings/api")


@contextlib.contextmanager
def client_errors(what: str) -> Iterator[None]:
    """Turn what the client raises in this context into a BadInput about `what`, and drop what it prints.

    Raises:
        Refusal: no connection, or Kaggle answered with an error, whose words it keeps.
        BadInput: the client refused the request, or cannot read the answer.
    """
    import requests  # not on top: it takes a while, and comes with the client

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except BadInput:
        raise
    except (json.JSONDecodeError, KeyError) as error:  # KeyError: a value that the client does not know
        raise BadInput(f"{what}: the client cannot read Kaggle's answer ({type(error).__name__})") from None
    except requests.RequestException as error:  # its text may hold a signed address
        if error.response is None:
            raise Refusal(f"{what}: Kaggle is out of reach ({type(error).__name__}): check the network") from None
        code, words = read_refusal(error.response)
        hint = f". {SIGN_IN}" if code == 401 else ""
        raise Refusal(f"{what}: Kaggle answered {code}, {words}{hint}", code, retry_after(error.response)) from None
    except ValueError as error:  # the client's own checks
        raise BadInput(f"{what}: {error}") from None


def read_refusal(response: "requests.Response") -> tuple[int, str]:
    """Read an error's HTTP status and Kaggle's words: of these the client shows one or neither."""
    code, words = response.status_code, None
    try:
        body = response.json()
    except ValueError:
        if not is_web_page(response.content):
            words = response.text
    else:
        if isinstance(body, dict):
            words = body.get("message") or body.get("error")
            code = body.get("code") or code
    return code, textwrap.shorten(str(words or response.reason), 400).rstrip(".")


def is_web_page(content: bytes) -> bool:
    """Tell whether bytes are HTML or XML, as pages of errors are."""
    return content.lstrip().startswith(b"<")


def retry_after(response: "requests.Response") -> float:
    """Read the seconds that Kaggle asks to wait; 0 where it does not say."""
    try:
        return float(response.headers.get("Retry-After", 0))
    except ValueError:  # a date: our own pace will do
        return 0.0


def retry(call: Callable[[], T], pause: float, codes: Collection[int] = TRANSIENT_CODES) -> T:
    """Return what `call()` gives; call it again after a Refusal with one of `codes`, MAX_TRIES times at most.

    Args:
        pause: seconds before the second try; each wait is twice the one before, and at least what Kaggle asks for.
    """
    for number in range(1, MAX_TRIES):
        try:
            return call()
        except Refusal as error:
            if error.code not in codes:
                raise
            wait = min(max(pause * 2 ** (number - 1), error.wait), MAX_WAIT)
            print(f"{error}; try {number + 1} of {MAX_TRIES} in {wait:.0f} s", flush=True)
            time.sleep(wait)
    return call()
