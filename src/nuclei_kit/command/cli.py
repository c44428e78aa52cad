"""Command line: `nuclei COMMAND`, from the competition's files to a scored submission and pictures of it."""

import contextlib
import shlex
import sys

from nuclei.settings.config import BadInput
from nuclei_kit.command.parser import build_parser
from nuclei_kit.command.terminal import (
    Failed,
    describe_error,
    drop_unwritten,
    escape_control,
    log_lines,
    program,
    ready_streams,
    stopping_at_sigterm,
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command -> exit status.

    0, 1 for a run that did not end well, here or on Kaggle, 2 for bad input (one sentence on stderr), 130 for Ctrl-C,
    143 for SIGTERM, 141 where what reads the output has seen enough, as head has.
    """
    ready_streams()
    try:
        status = _run_command(arguments)
        sys.stdout.flush()
        return status
    except BadInput as error:
        return _fail(str(error))
    except Failed as error:
        _say(f"nuclei: error: {escape_control(str(error))}")
        return 1
    except BrokenPipeError:
        return 141
    except OSError as error:  # a full disk, a folder that is not ours
        return _fail(describe_error(error))
    except ImportError as error:  # a library that is missing, or that lacks one of the system's
        return _fail(f"a library does not start ({error}): see what {program()} doctor says")
    except Exception as error:
        if isinstance(error, MemoryError) or _is_out_of_memory(error):
            return _fail("memory ran out: end other programs, or use a machine with more")
        if "can't start new thread" in str(error):
            return _fail("no more threads can be started: raise the limit (ulimit -u; of a container, --pids-limit)")
        raise
    except KeyboardInterrupt as stop:
        _say(f"nuclei: stopped by {str(stop) or 'Ctrl-C'}; what earlier runs wrote still stands.")
        return 143 if str(stop) else 130
    finally:
        drop_unwritten()


def _run_command(arguments):
    args = build_parser().parse_args(arguments)
    args.typed = shlex.join(["nuclei", *(sys.argv[1:] if arguments is None else arguments)])
    with log_lines(), stopping_at_sigterm():
        return args.command(args) or 0


def _is_out_of_memory(error):
    """Tell whether a backend says so; where Keras was never started, none does."""
    if "keras" not in sys.modules:
        return False
    from nuclei.training.train import is_out_of_memory  # late: it imports Keras

    return is_out_of_memory(error)


def _fail(sentence):
    _say(f"nuclei: error: {escape_control(' '.join(sentence.split()))}")
    return 2


def _say(line):
    with contextlib.suppress(OSError):  # the exit status tells, where stderr takes no more
        print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
