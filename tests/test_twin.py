"""The twin: what a kernel can and cannot do in it, what it leaves when a run ends in each way, and that nothing stays.

Most kernels here are drawn: a few lines of Python in place of the real one.
"""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
from drawn_files import draw_files, write_folder
from waiting import wait_until

from benchmarks.stress.kills import kill_twin, list_processes
from nuclei.settings.config import BadInput
from nuclei_kit.command.terminal import Failed
from nuclei_kit.files.tables import read_table
from nuclei_kit.kaggle import twin
from nuclei_kit.sample.sample import draw_sample

EARLIER = "of an earlier run\n"
SUBMIT = """
    import os, pathlib
    working = pathlib.Path(os.environ["NUCLEI_WORKING"])
    rows = [f"{i},1 3" for i in IDS]
    (working / "submission.csv").write_text("\\n".join(["ImageId,EncodedPixels", *rows, ""]))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A small sample competition."""
    folder = tmp_path_factory.mktemp("a competition")
    draw_sample(folder, n_train=3, n_test=2)
    return folder


@pytest.fixture
def run(data, tmp_path, monkeypatch):
    """Run a drawn kernel in the twin, in a folder that holds an earlier run's submission -> that folder."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/submission.csv").write_text(EARLIER)

    def run(*lines, settings=None, **options):
        ids = [row["ImageId"] for row in read_table(data / "stage1_sample_submission.csv", ["ImageId"])]
        kernel = tmp_path / "drawn.py"
        kernel.write_text(f"IDS = {ids}\n" + "".join(textwrap.dedent(text) + "\n" for text in lines))
        try:
            twin.run_twin(kernel, data, tmp_path / "out", settings or {}, **options)
        finally:
            assert not list((tmp_path / "tmp").iterdir())
            wait_until(lambda: not list_processes(tmp_path))
        return tmp_path / "out"

    return run


def test_the_twin_itself_needs_no_keras():
    script = "import sys, nuclei_kit.kaggle.twin; assert not {'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


# ---- what would not run there as it does at home -----------------------------------------------

FILES, _ = draw_files()


def spoil_by_link(folder):
    (folder / "bb").rename(folder.parent / "elsewhere")
    (folder / "bb").symlink_to(folder.parent / "elsewhere")


def spoil_by_jpeg(folder):
    (folder / "bb/images/bb.png").rename(folder / "bb/images/bb.jpg")


def spoil_by_backslashes(folder):
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for name, content in FILES.items():
            entry = zipfile.ZipInfo()
            entry.filename = name.replace("/", "\\")
            archive.writestr(entry, content)
    shutil.rmtree(folder)


@pytest.mark.parametrize("spoil", [spoil_by_link, spoil_by_jpeg, spoil_by_backslashes])
def test_images_that_the_kernel_would_miss_are_named(tmp_path, spoil):
    path = write_folder(tmp_path / "set", FILES)
    assert twin.check_layout(path) == ["aa", "bb", "cc"]
    spoil(path)
    path = path if path.exists() else path.with_suffix(".zip")
    with pytest.raises(BadInput, match=r"set.* the kernel would miss . images, .. first, .* train with nuclei run"):
        twin.check_layout(path)


def test_a_backend_that_the_interpreter_lacks_is_named(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "json")  # any module that is there
    twin.check_backend(sys.executable)
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    with pytest.raises(BadInput, match=f"KERAS_BACKEND is theano, which {sys.executable} does not have"):
        twin.check_backend(sys.executable)


# ---- where a kernel finds itself ---------------------------------------------------------------


def test_a_run_that_ends_well_replaces_the_earlier_one(run, capsys):
    out = run(SUBMIT, "print('done')")
    assert {path.name for path in out.iterdir()} == {"submission.csv", "kernel.log"}
    assert len(read_table(out / "submission.csv", ["ImageId"])) == 2
    assert (out / "kernel.log").read_text() == capsys.readouterr().out == "done\n"


def test_what_tensorflow_says_of_itself_is_kept_and_not_shown(run, capsys):
    noise = "I0000 00:00:1795519420.599733   12213 cudart_stub.cc:31] Could not find cuda drivers on your machine"
    out = run(SUBMIT, f"print({noise!r})", "print('E0000 00:00:17 an error')")
    assert capsys.readouterr().out == "E0000 00:00:17 an error\n"
    assert noise in (out / "kernel.log").read_text()


@pytest.mark.parametrize("layout, mount", twin.LAYOUTS.items())
def test_the_input_is_mounted_in_either_layout(run, data, layout, mount):
    show = "print(sorted(os.listdir(os.environ['NUCLEI_INPUT'] + '/' + os.environ['MOUNT'])))"
    out = run(SUBMIT, show.replace("os.environ['MOUNT']", repr(mount)), layout=layout)
    assert (out / "kernel.log").read_text() == f"{sorted(os.listdir(data))}\n"


def test_the_environment_is_clean(run, monkeypatch):
    monkeypatch.setenv("KAGGLE_KEY", "secret")
    monkeypatch.setenv("NUCLEI_SEED", "99")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    out = run(SUBMIT, "for item in os.environ.items(): print(*item)", settings={"PRESET": "cpu", "MINUTES": 2.5})
    environ = dict(line.split(" ", 1) for line in (out / "kernel.log").read_text().splitlines())
    root = Path(environ["HOME"]).parent
    assert environ.pop("NUCLEI_INPUT") == str(root / "kaggle/input")
    assert environ.pop("NUCLEI_WORKING") == str(root / "kaggle/working")
    assert environ.pop("KAGGLE_KERNEL_RUN_TYPE") == "Batch"
    assert environ.pop("NUCLEI_PRESET") == "cpu"
    assert environ.pop("NUCLEI_MINUTES") == "2.5"
    libraries = {"TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS", "HDF5_USE_FILE_LOCKING"}
    assert set(environ) <= {*twin.KEPT, "HOME", "LANG", *libraries}


def test_the_script_is_alone(run):
    show = "import sys; print(__name__, sys.argv == [__file__], os.path.dirname(__file__) in sys.path, os.getcwd())"
    listing = "print(__file__.rsplit('/', 3)[1:], os.listdir(os.path.dirname(__file__)), sys.stdin.read() == '')"
    out = run(SUBMIT, show, listing)
    first, second = (out / "kernel.log").read_text().splitlines()
    assert first.startswith("__main__ True False ") and first.endswith("/home")
    assert second == "['kaggle', 'src', 'script.py'] ['script.py'] True"


def test_tracebacks_and_getsource_show_the_script(run):
    source = "def one():\n    return 1\nimport inspect\nprint(repr(inspect.getsource(one)))\nraise RuntimeError('out')"
    with pytest.raises(Failed, match=r"status 1; .*unfinished/kernel\.log ends with\n(.*\n)+RuntimeError: out\n"):
        run(source)


CANNOT = [
    ("import nuclei.competition.data", "ModuleNotFoundError.*nuclei"),
    ("import nuclei_kit", "ModuleNotFoundError.*nuclei_kit"),
    ("open(__file__.replace('script', 'more'), 'w')", r"OSError.* Read-only file system: .*src/more\.py"),
    ("import pathlib; pathlib.Path(__file__).chmod(0o644); open(__file__, 'a')", "OSError.* Read-only file system"),
    ("import socket; socket.create_connection(('192.0.2.1', 80))", r"ConnectionRefusedError.*192\.0\.2\.1"),
    ("import socket; socket.create_connection(('localhost', 9))", "ConnectionRefusedError.*localhost"),
    ("import socket; socket.socket().connect_ex(('192.0.2.1', 7))", r"ConnectionRefusedError.*192\.0\.2\.1"),
    ("import socket; socket.socket(type=2).sendto(b'x', ('192.0.2.1', 7))", r"ConnectionRefusedError.*192\.0\.2\.1"),
    ("from urllib.request import urlopen; urlopen('http://example.org')", "URLError.*example.org"),
]


@pytest.mark.parametrize("line, error", CANNOT, ids=[row[0].split("; ")[-1] for row in CANNOT])
def test_what_cannot_be_done_on_kaggle_is_an_error(run, tmp_path, line, error):
    with pytest.raises(Failed, match=f"ended with status 1; (.*\n)*.*{error}"):
        run(SUBMIT, line)
    assert (tmp_path / "out/submission.csv").read_text() == EARLIER


def test_a_swallowed_attempt_to_connect_is_in_the_log(run):
    hide = "import contextlib, socket\nwith contextlib.suppress(OSError): socket.gethostbyname('example.org')"
    assert (
        "NO NETWORK on Kaggle, and this kernel tried to reach example.org"
        in (run(SUBMIT, hide) / "kernel.log").read_text()
    )


def test_processes_of_one_machine_may_still_talk(run):
    run(SUBMIT, "import socket\na, b = socket.socketpair()\na.send(b'x')\nassert b.recv(1) == b'x'")


# ---- how a run can end -------------------------------------------------------------------------

PLACEHOLDER = SUBMIT.replace(",1 3", ",")
HANG = "print('hangs', flush=True); import time; time.sleep(600)"
FAILURES = [
    # name, kernel, limit in minutes, what is said, what stands in the unfinished folder
    ("another status", [SUBMIT, "print('bye'); raise SystemExit(3)"], 1, r"status 3; .*ends with\nbye\n$", 2),
    ("a signal", [SUBMIT, "os.kill(os.getpid(), 9)"], 1, "ended by SIGKILL", 2),
    ("no submission", ["pass"], 1, r"ended well, but .*unfinished/submission\.csv cannot be read", 0),
    ("a broken one", [SUBMIT.replace("1 3", "0 3")], 1, r"ended well, but .*submission\.csv, row 2", 2),
    ("a placeholder", [PLACEHOLDER], 1, r"ended well, but .* is a placeholder: 2 images without", 2),
    ("the limit, at first", [HANG], 0.02, "killed after 0.02 minutes.* nothing that Kaggle would take.* lose", 0),
    ("the limit, later", [PLACEHOLDER, HANG], 0.02, "killed after 0.02 minutes.* is a placeholder: 2 images.* lose", 2),
    ("the limit, late", [SUBMIT, HANG], 0.02, "killed after 0.02 minutes.* holds 2 nuclei in 2 images; .* lose", 2),
]


@pytest.mark.slow
@pytest.mark.parametrize("kernel, limit, message, rows", [row[1:] for row in FAILURES], ids=[r[0] for r in FAILURES])
def test_a_failure_leaves_what_the_user_had(run, tmp_path, kernel, limit, message, rows):
    with pytest.raises(Failed, match=message):
        run(*kernel, limit=limit)
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"submission.csv", "unfinished"}
    assert (out / "submission.csv").read_text() == EARLIER
    assert (out / "unfinished/kernel.log").is_file()
    if rows:
        assert len(read_table(out / "unfinished/submission.csv", ["ImageId"])) == rows


CHILD = "import subprocess, sys; child = [sys.executable, '-c', 'import time; time.sleep(600)', __file__]"


def test_what_the_kernel_left_running_ends_with_it(run):
    run(SUBMIT, CHILD, "subprocess.Popen(child, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_kernel_dies_with_the_twin(data, tmp_path, sent):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "drawn.py").write_text(f"{CHILD}\nsubprocess.run(child)\n")
    script = "import signal, sys; from pathlib import Path\n"
    script += "from nuclei_kit.command import cli; from nuclei_kit.kaggle import kernel\n"
    script += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it,
    script += "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # and nohup this one
    script += f"kernel.refresh_kernel = lambda: Path({str(tmp_path / 'drawn.py')!r})\n"
    script += f"sys.exit(cli.main(['kernel', 'run', '--data', {str(data)!r}, '--out', {str(tmp_path / 'out')!r}]))"
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=os.environ | {"TMPDIR": str(tmp_path / "tmp")}, stderr=subprocess.PIPE
    )
    try:
        wait_until(lambda: len(list_processes(tmp_path / "tmp")) == 2)
    finally:
        process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    wait_until(lambda: not list_processes(tmp_path / "tmp"))
    if sent in (signal.SIGINT, signal.SIGTERM):
        assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[sent]
        assert b"stopped by " in said and b"Traceback" not in said
        assert not list((tmp_path / "tmp").iterdir())


# ---- the real kernel ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("share, sent", [(0.5, signal.SIGKILL), (1.0, signal.SIGTERM)])
def test_a_valid_submission_stands_whenever_a_run_is_cut_off(data, tmp_path, share, sent):
    """Two of the eight in benchmarks/stress/kills.py; it checks the rules, and that the earlier submission stays."""
    path, _, images, left = kill_twin(data, tmp_path, share, sent, minutes=0.1)
    assert path.is_relative_to(tmp_path / "out")
    assert images == 2
    assert left == []
