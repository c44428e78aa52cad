"""Command line: `nuclei COMMAND`, from the competition's files to a scored submission and pictures of it."""

import shlex
import sys

from nuclei.settings.config import BadInput
from nuclei_kit.command.parser import build_parser
from nuclei_kit.command.terminal import Failed, escape_control, log_lines, stopping_at_sigterm


def main(arguments: list[str] | None = None) -> int:
    """Run one command -> exit status.

    0, 1 for a run that did not end well, here or on Kaggle, 2 for bad input (one sentence on stderr), 130 for Ctrl-C,
    143 for SIGTERM.
    """
    try:
        args = build_parser().parse_args(arguments)
        args.typed = shlex.join(["nuclei", *(sys.argv[1:] if arguments is None else arguments)])
        with log_lines(), stopping_at_sigterm():
            return args.command(args) or 0
    except BadInput as error:
        return _fail(str(error))
    except Failed as error:
        print(f"nuclei: error: {escape_control(str(error))}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder that is not ours
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt as stop:
        print(f"nuclei: stopped by {str(stop) or 'Ctrl-C'}; what earlier runs wrote still stands.", file=sys.stderr)
        return 143 if str(stop) else 130


def _fail(sentence):
    print(f"nuclei: error: {escape_control(' '.join(sentence.split()))}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
