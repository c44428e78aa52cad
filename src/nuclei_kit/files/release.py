"""Release: make a run's network ready to ship with the kit, its weights in half the bytes.

python -m nuclei_kit.files.release RUN src/nuclei/weights
"""

import argparse
import io
import sys
from pathlib import Path

import h5py

from nuclei.prediction.run_folder import find_run
from nuclei.settings.config import BadInput
from nuclei.settings.files import CONFIG_FILE, WEIGHTS_FILE, write_whole
from nuclei_kit.files.runs import load_run


def release_run(run: Path, folder: Path) -> int:
    """Copy a run's weights, kernels as float16, and its settings into `folder` -> bytes of the weights.

    Raises:
        BadInput: see `load_run`.
    """
    load_run(run)  # refuses what nobody could load
    weights, settings = find_run(run)
    buffer = io.BytesIO()
    with h5py.File(weights, "r") as whole, h5py.File(buffer, "w") as half:

        def copy(name, item):
            if isinstance(item, h5py.Dataset):
                # Only kernels: a variance of a normalisation may be more than float16 holds.
                half.create_dataset(name, data=item[()].astype("float16" if item.ndim > 1 else item.dtype))

        whole.visititems(copy)
    write_whole(folder / WEIGHTS_FILE, buffer.getvalue())
    write_whole(folder / CONFIG_FILE, settings.read_bytes())
    return len(buffer.getvalue())


def main(arguments: list[str] | None = None) -> int:
    """Run the command in this module's docstring -> exit status."""
    parser = argparse.ArgumentParser(prog="python -m nuclei_kit.files.release", description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a finished run")
    parser.add_argument("folder", metavar="DIR", type=Path, help="where its weights and settings go")
    args = parser.parse_args(arguments)
    try:
        size = release_run(args.run, args.folder)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.folder} holds the network: {size / 1e6:.1f} MB. Update its model card, README.md, by hand.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
