"""The first commands: a sample and what is next, every set of a folder."""

from nuclei_kit.command.cli import main
from nuclei_kit.command.endings import print_next
from nuclei_kit.sample.sample import draw_sample


def test_sample_draws_a_competition_and_says_what_is_next(tmp_path, capsys):
    assert main(["sample", str(tmp_path / "new one"), "--seed", "3"]) == 0
    said = capsys.readouterr().out
    assert (tmp_path / "new one/stage1_train.zip").is_file()
    assert f"nuclei run --data '{tmp_path / 'new one'}' --preset sample" in said


def test_sample_draws_the_second_stage_where_it_is_asked_for(tmp_path, capsys):
    assert main(["sample", str(tmp_path), "--stage", "2"]) == 0
    assert f"nuclei run --data {tmp_path} --preset sample --stage 2\n" in capsys.readouterr().out
    solution = tmp_path / "stage2_solution_final.csv"
    submission = str(tmp_path / "stage2_sample_submission_final.csv")
    assert main(["check", submission, "--data", str(tmp_path), "--stage", "2"]) == 0
    assert main(["score", submission, "--solution", str(solution)]) == 0
    assert capsys.readouterr().out.split()[-1] == "0.0000"
    print_next(tmp_path / "submission.csv", tmp_path, stage=2)
    assert f"--solution {solution}\n" in capsys.readouterr().out


def test_info_prints_every_set(tmp_path, capsys):
    draw_sample(tmp_path, n_train=2, n_test=2)
    assert main(["info", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "stage1_train.zip" in said and "stage1_test.zip" in said


def test_info_shows_the_sound_sets_beside_a_broken_one(tmp_path, capsys):
    draw_sample(tmp_path, n_train=2, n_test=2)
    (tmp_path / "stage1_train.zip").write_bytes(b"PK")
    assert main(["info", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "stage1_test.zip" in said.out
    assert "stage1_train.zip" in said.err
