"""Endings: what a command says when a submission is there, and what to type next."""

from pathlib import Path

from nuclei_kit.command.terminal import program, quote

UPLOAD_PAGE = "https://www.kaggle.com/c/data-science-bowl-2018/submit"


def print_next(path: Path, data: Path, stage: int) -> None:
    """Say what can be done with a submission."""
    from nuclei_kit.experiments.scoring import find_solution

    solution = find_solution(data, stage)
    named = quote(solution) if solution else "CSV   (if you have a solution file)"
    print(f"\nThe submission is {path}. Next:")
    print(f"  {program()} check {quote(path)} --data {quote(data)}{stage_option(stage)}")
    print(f"  {program()} score {quote(path)} --solution {named}")
    print(f"  or upload it: {UPLOAD_PAGE}")


def report_on(run: Path, data: Path, stage: int) -> None:
    """Write the report of a run that has just ended."""
    from nuclei_kit.experiments.scoring import find_solution
    from nuclei_kit.report.report import write_report

    path = write_report(run, data, stage, find_solution(data, stage))
    print(f"\nThe report is {path}: open it in a browser.")


def stage_option(stage: int) -> str:
    """Say a stage as an option, where it is not the default."""
    return f" --stage {stage}" if stage != 1 else ""
