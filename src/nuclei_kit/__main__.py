"""`python -m nuclei_kit` is the command `nuclei`."""

import sys

from nuclei_kit.command.cli import main

if __name__ == "__main__":
    sys.exit(main())
