"""Kernel: the script that Kaggle runs, built from the sources, and where it lies."""

import subprocess
import sys
from pathlib import Path

from nuclei.settings.config import BadInput

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = Path("kernel/nuclei_kernel.py")  # from the root, as METADATA
METADATA = Path("kernel/kernel-metadata.json")


def refresh_kernel(root: Path = ROOT) -> Path:
    """Bring kernel/nuclei_kernel.py up to date with src/nuclei -> its path.

    Raises:
        BadInput: what build_kernel.py refused, or this is not a clone of the repository.
    """
    builder = root / "build_kernel.py"
    if not builder.is_file():
        raise BadInput(f"{builder} is missing: the kernel is built in a clone of the repository, with pip install -e .")
    done = subprocess.run([sys.executable, builder], cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise BadInput((done.stderr or done.stdout).strip())
    return root / SCRIPT
