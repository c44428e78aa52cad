"""Recipe: the options that the studies share which train a network."""

import argparse
import logging
from dataclasses import replace
from pathlib import Path

from nuclei.settings.config import PRESETS, Config
from nuclei_kit.experiments.experiments import change_settings


def recipe_parser(doc: str, preset: str, steps: int) -> argparse.ArgumentParser:
    """Make a parser of DIR and the recipe, with the study's own defaults."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DIR", type=Path)
    parser.add_argument("--preset", choices=PRESETS, default=preset)
    parser.add_argument("--steps", type=int, default=steps)
    hint = "settings of src/nuclei/settings/config.py"
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help=hint)
    return parser


def read_recipe(args: argparse.Namespace, **changes) -> Config:
    """Make the Config that was asked for, with the study's own changes, and show log lines from now on."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return change_settings(replace(PRESETS[args.preset], train_steps=args.steps, **changes), args.set)
