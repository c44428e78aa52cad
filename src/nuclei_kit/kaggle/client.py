"""Client: Kaggle's own client, signed in, and what goes wrong with it as a sentence.

It prints where others raise, calls some failures successes, and keeps the server's words to itself. So the replies are
looked at, and what it prints is dropped: there may be an address in it that is as good as a password.
"""

import contextlib
import io
import json
import textwrap
import time

from nuclei.settings.config import BadInput

SIGN_IN = (
    "Kaggle must know who you are, and the client found nobody it could sign in: make a token at "
    "https://www.kaggle.com/settings/api, and give it as KAGGLE_API_TOKEN or in ~/.kaggle/access_token; or give "
    "KAGGLE_USERNAME and KAGGLE_KEY, or ~/.kaggle/kaggle.json; or run kaggle auth login"
)
PASSING = frozenset({0, 429, 500, 502, 503, 504})  # what may be over in a minute; 0 is no answer at all
TRIES = 8
LONGEST_WAIT = 300  # seconds


class Refusal(BadInput):
    """What Kaggle answered instead of what it was asked for."""

    def __init__(self, sentence, code=0, wait=0.0):
        super().__init__(sentence)
        self.code = code  # HTTP status, 0 where there was no answer
        self.wait = wait  # seconds that Kaggle asks for


def sign_in():
    """-> Kaggle's client, a KaggleApi that is signed in in its own way.

    Raises:
        BadInput: it is not installed, or has no credentials, or none that hold.
    """
    with asking("signing in to Kaggle"):
        try:
            import kaggle  # signs in by itself, and prints a page where it cannot
        except ImportError as error:
            hint = 'pip install -e ".[workshop]"'
            raise BadInput(f"Kaggle's client does not start ({error}): install it with {hint}") from None
        try:
            kaggle.api.authenticate()
        except SystemExit:
            raise BadInput(SIGN_IN) from None
        return kaggle.api


@contextlib.contextmanager
def asking(what):
    """Wraps calls of the client: whatever they raise turns into a BadInput about `what`, and what they print vanishes.

    Raises:
        Refusal: no connection, or Kaggle said no; it has Kaggle's own words.
        BadInput: the client said no, or does not understand the answer.
    """
    import requests  # not on top: it takes a while, and comes with the client

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except BadInput:
        raise
    except requests.HTTPError as error:
        code, words = read_refusal(error.response)
        hint = f". {SIGN_IN}" if code == 401 else ""
        raise Refusal(f"{what}: Kaggle answered {code}, {words}{hint}", code, retry_after(error.response)) from None
    except (json.JSONDecodeError, KeyError) as error:  # KeyError: a word that the client does not know
        raise BadInput(f"{what}: the client cannot read Kaggle's answer ({type(error).__name__})") from None
    except requests.RequestException as error:  # its text may hold a signed address
        raise Refusal(f"{what}: Kaggle is out of reach ({type(error).__name__}): check the network") from None
    except ValueError as error:  # the client's own checks
        raise BadInput(f"{what}: {error}") from None


def read_refusal(response):
    """HTTP status and Kaggle's words: of these the client shows one or neither."""
    code, words = response.status_code, ""
    try:
        body = response.json()
    except ValueError:
        if not is_page(response.content):
            words = response.text
    else:
        if isinstance(body, dict):
            words = body.get("message") or body.get("error")
            code = body.get("code") or code
    return code, textwrap.shorten(str(words or response.reason), 400).rstrip(".")


def is_page(content):
    """Whether bytes are HTML or XML, as pages of errors are."""
    return content.lstrip().startswith(b"<")


def retry_after(response):
    try:
        return float(response.headers.get("Retry-After", 0))
    except ValueError:  # a date: our own pace will do
        return 0.0


def ask_patiently(call, pause, passing=PASSING):
    """call() -> what it returns; a Refusal in `passing` is waited out, longer each time, until TRIES are used up."""
    for number in range(1, TRIES):
        try:
            return call()
        except Refusal as error:
            if error.code not in passing:
                raise
            wait = min(max(pause * 2 ** (number - 1), error.wait), LONGEST_WAIT)
            print(f"{error}; try {number + 1} of {TRIES} in {wait:.0f} s", flush=True)
            time.sleep(wait)
    return call()
