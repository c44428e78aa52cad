"""`python -m nuclei` is the command `nuclei`. This file stays at home: the kernel starts in run/entry.py."""

import sys

from nuclei_kit.command.cli import main

if __name__ == "__main__":
    sys.exit(main())
