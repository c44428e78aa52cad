"""Endings: the commands that are named next take the files that are there."""

from pathlib import Path

from nuclei_kit.command.endings import print_next


def test_the_next_steps_name_the_files_that_are_there(tmp_path, capsys):
    print_next(Path("out/submission.csv"), tmp_path, stage=2)
    lines = capsys.readouterr().out.splitlines()
    assert f"  nuclei check out/submission.csv --data {tmp_path} --stage 2" in lines
    assert "  nuclei score out/submission.csv --solution CSV   (if you have a solution file)" in lines
    (tmp_path / "stage1_solution.csv").touch()
    print_next(Path("out/submission.csv"), tmp_path, stage=1)
    lines = capsys.readouterr().out.splitlines()
    assert f"  nuclei check out/submission.csv --data {tmp_path}" in lines
    assert f"  nuclei score out/submission.csv --solution {tmp_path / 'stage1_solution.csv'}" in lines
