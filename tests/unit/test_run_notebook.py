"""The strict runner: parameters are compared before a kernel starts, failures are one sentence and a path."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import papermill
import psutil
import pytest

from fer_openset.errors import UserError
from fer_openset.settings import ROOT
from workflow import batch
from workflow import run_notebook as runner

PARAMETERS = 'name = "a"  # who\nseed = 0\nrate = 0.5\nfast = False\noverrides = {}\nanything = None'


def test_a_start_compiles_no_grammar_that_nothing_asks_for():
    code = "import sys; from workflow import run_notebook; import papermill; print('lark' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


@pytest.fixture
def notebook(tmp_path):
    """Write a notebook with a parameters cell and the given code cells."""

    def write(*cells, parameters=PARAMETERS):
        first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
        kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
        made = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
        made.cells = [first] * bool(parameters) + [nbformat.v4.new_code_cell(cell) for cell in cells]
        nbformat.write(made, tmp_path / "small.ipynb")
        return tmp_path / "small.ipynb"

    return write


@pytest.fixture
def no_kernel(monkeypatch):
    """Any attempt to execute is an error of the test."""

    def refuse(*arguments, **options):
        raise AssertionError("a kernel was started")

    monkeypatch.setattr(papermill, "execute_notebook", refuse)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"sede": 1}, "unknown parameter 'sede'; did you mean 'seed'?"),
        ({"seed": "1"}, "seed = '1' is text; expected a whole number."),
        ({"seed": 1.0}, "seed = 1.0 is a number; expected a whole number."),
        ({"seed": True}, "seed = True is true or false; expected a whole number."),
        ({"rate": "1e-3"}, "rate = '1e-3' is text; expected a number (YAML reads 1e-3 as text: write 1.0e-3)."),
        ({"rate": True}, "rate = True is true or false; expected a number."),
        ({"fast": 1}, "fast = 1 is a whole number; expected true or false."),
        ({"fast": "false"}, "fast = 'false' is text; expected true or false."),
        ({"name": None}, "name = None is nothing; expected text."),
        ({"overrides": []}, "overrides = [] is a list; expected a mapping."),
    ],
)
def test_misfits_stop_before_a_kernel_starts(notebook, no_kernel, tmp_path, values, expected):
    with pytest.raises(UserError, match="^small.ipynb: ") as caught:
        runner.run_notebook(notebook("1"), tmp_path / "out.ipynb", values)
    assert expected in str(caught.value)


def test_what_fits():
    defaults = {"rate": 0.5, "seed": 0, "anything": None, "overrides": {}}
    runner.check_parameters("x.ipynb", {"rate": 1, "anything": [1], "overrides": {"a": 1}, "seed": 3}, defaults)
    runner.check_parameters("x.ipynb", {}, {})


def test_notebooks_that_cannot_be_used(notebook, no_kernel, tmp_path):
    cases = {
        tmp_path / "absent.ipynb": "there is no such notebook",
        notebook("1", parameters="seed = 1 + int('2')"): "parameters cell may hold plain literals only",
    }
    for path, expected in cases.items():
        with pytest.raises(UserError, match=expected):
            runner.run_notebook(path, tmp_path / "out.ipynb", {})
    with pytest.raises(UserError, match=r"no cell tagged parameters, so it takes no seed"):
        runner.run_notebook(notebook("1", parameters=""), tmp_path / "out.ipynb", {"seed": 1})
    (tmp_path / "small.ipynb").write_text("{not json", encoding="utf-8")
    with pytest.raises(UserError, match="not readable as a notebook"):
        runner.run_notebook(tmp_path / "small.ipynb", tmp_path / "out.ipynb", {})


def test_command_line_values_take_the_type_of_the_default(notebook, tmp_path, capsys):
    out = tmp_path / "deep" / "out.ipynb"
    pairs = ["-p", "name", "007", "-p", "seed", "3", "-p", "rate", "1.0e-3", "-p", "fast", "true"]
    assert runner.main([str(notebook("1")), str(out), *pairs, "--prepare-only"]) == 0
    source = "".join(cell["source"] for cell in nbformat.read(out, 4).cells)
    for line in ('name = "007"', "seed = 3", "rate = 0.001", "fast = True"):
        assert line in source
    assert runner.main([str(notebook("1")), str(out), "-p", "rate", "1e-3", "--prepare-only"]) == 2
    assert "write 1.0e-3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-p", "overrides", "{epochs: 3"], "a value of -p is not readable as YAML"),
        (["--parameters-json", "{"], "--parameters-json is not readable as JSON"),
        (["--parameters-json", "[1]"], "--parameters-json takes one JSON object"),
    ],
)
def test_values_that_cannot_be_read_are_one_sentence(notebook, tmp_path, capsys, options, expected):
    out = tmp_path / "out.ipynb"
    assert runner.main([str(notebook("1")), str(out), *options, "--prepare-only"]) == 2
    said = capsys.readouterr().err
    assert expected in said and said.count("\n") == 1 and not out.exists()


def test_results_that_are_a_file_are_one_sentence(notebook, no_kernel, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FER_OPENSET_RESULTS", str(tmp_path / "file"))
    assert runner.main([str(notebook("1")), str(tmp_path / "file" / "x" / "out.ipynb")]) == 2
    assert batch.main(["params/grids/smoke.yaml"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("cannot be written" in line for line in lines)


def test_labelled_lines_are_whole():
    stream = io.StringIO()
    lines = runner.LabelledLines(stream, "job")
    for piece in ("epo", "ch 1\nepoch", " 2\r\n\n", "rest"):
        lines.write(piece)
    assert stream.getvalue() == "job | epoch 1\njob | epoch 2\n"


def run(*arguments):
    command = [sys.executable, "-m", "workflow.run_notebook", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_run_prints_its_lines_and_its_end(notebook, tmp_path):
    path = notebook("import os\nprint(os.getcwd(), os.environ['FER_OPENSET_THREADS'], os.environ['OMP_NUM_THREADS'])")
    done = run(path, tmp_path / "new" / "out.ipynb", "--parameters-json", json.dumps({"seed": 7}), "--threads", 1)
    assert done.returncode == 0, done.stderr
    first, middle, last = done.stdout.splitlines()
    assert (first, middle) == ("start small", f"small | {ROOT} 1 1")
    assert last.startswith("done  small in ")
    assert done.stderr == ""
    assert "seed = 7" in (tmp_path / "new" / "out.ipynb").read_text()


def test_a_failing_cell_is_one_sentence_and_a_path(notebook, tmp_path):
    said = "faces: there is no such folder; name another."
    path = notebook(f"from fer_openset.errors import UserError\nraise UserError({said!r})", "print('after')")
    done = run(path, tmp_path / "out.ipynb", "--label", "job 1")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"failed job 1: {said}", f"  see {tmp_path / 'out.ipynb'}"]
    assert "after" not in done.stdout
    assert "UserError" in (tmp_path / "out.ipynb").read_text(), "the executed notebook shows the traceback"


def test_a_kernel_that_was_killed_once_is_started_again(notebook, tmp_path):
    flag = tmp_path / "was_here"
    kill = f"import os, pathlib\nflag = pathlib.Path({str(flag)!r})\nfirst = not flag.exists()\nflag.touch()"
    done = run(notebook(kill, "if first: os.kill(os.getpid(), 9)", "print('through')"), tmp_path / "out.ipynb")
    assert done.returncode == 0, done.stderr
    assert "the kernel died" in done.stdout
    assert "small | through" in done.stdout


def test_no_kernel_outlives_a_killed_runner(notebook, tmp_path):
    path = notebook("import os\nprint(os.getpid(), flush=True)", "import time\ntime.sleep(300)")
    command = [sys.executable, "-m", "workflow.run_notebook", path, tmp_path / "out.ipynb"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        kernel = psutil.Process(int(process.stdout.readline().split("|")[1]))
        os.kill(process.pid, signal.SIGKILL)
    ended = time.monotonic() + 10
    while kernel.is_running() and kernel.status() != psutil.STATUS_ZOMBIE and time.monotonic() < ended:
        time.sleep(0.1)
    assert not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE
