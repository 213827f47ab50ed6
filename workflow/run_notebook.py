"""Run one notebook with papermill, strictly: unknown or mistyped parameters stop before a kernel starts.

python -m workflow.run_notebook notebooks/01_closed_set_training.ipynb OUT.ipynb -p dataset synthetic -p seed 1
"""

import argparse
import ast
import json
import os
import sys
import time
from pathlib import Path
from textwrap import shorten

import yaml

from fer_openset.atomic import need_writable
from fer_openset.errors import UserError
from fer_openset.labels import check_name
from fer_openset.settings import ROOT
from workflow.orphans import die_with_parent

# For the kernel's C library: memory that a training step frees stays with the process, in huge pages; otherwise every
# step fetches it from the system again (measured: 10 to 20 % of a training step). Other C libraries do not read it.
ALLOCATOR = "glibc.malloc.hugetlb=1:glibc.malloc.trim_threshold=4294967296:glibc.malloc.mmap_max=0"


class NotebookFailed(Exception):
    """A cell raised or the kernel died; the message is one sentence, the executed notebook tells the rest."""


def notebook_defaults(notebook):
    """The literals of the cell tagged `parameters`: name -> value. Raises: UserError without such a notebook."""
    import papermill  # slow to import; not needed to read a command line

    try:
        found = papermill.inspect_notebook(str(notebook))
    except FileNotFoundError:
        raise UserError(f"{notebook}: there is no such notebook; choose one of the folder notebooks.") from None
    except ValueError as error:  # not JSON, or JSON that is no notebook
        raise UserError(f"{notebook}: not readable as a notebook ({' '.join(str(error).split())[:120]}).") from None
    return {name: _literal(notebook, name, entry["default"]) for name, entry in found.items()}


def _literal(notebook, name, text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise UserError(
            f"{notebook}: the default of {name} is {text!r}; the parameters cell may hold plain literals only."
        ) from None


def check_parameters(notebook, values, defaults):
    """Compare `values` with a notebook's defaults; an int passes for a float. Raises: UserError."""
    notebook = Path(notebook).name
    for name, value in values.items():
        if not defaults:
            raise UserError(f"{notebook}: has no cell tagged parameters, so it takes no {name}; leave it out.")
        try:
            check_name(name, tuple(defaults), "parameter")
        except UserError as error:
            raise UserError(f"{notebook}: {error}") from None
        expected = type(defaults[name])
        fits = type(value) is expected or (expected is float and type(value) is int) or defaults[name] is None
        if not fits:
            hint = " (YAML reads 1e-3 as text: write 1.0e-3)" if expected is float and type(value) is str else ""
            raise UserError(
                f"{notebook}: {name} = {value!r} is {_article(value)}; expected {_article(defaults[name])}{hint}."
            )


def _article(value):
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    words |= {dict: "a mapping", list: "a list", type(None): "nothing"}
    return words.get(type(value), type(value).__name__)


def read_arguments(pairs, defaults):
    """Turn `-p name text` pairs into values: text stays text where the default is text, else it is read as YAML."""
    try:
        return {n: t if isinstance(defaults.get(n), str) else yaml.safe_load(t) for n, t in pairs}
    except yaml.YAMLError as error:
        raise UserError(
            f"a value of -p is not readable as YAML ({shorten(str(error), 120)}); quote it whole."
        ) from None


def read_json(text):
    """The parameters of --parameters-json. Raises: UserError for anything but one JSON object."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UserError(f"--parameters-json is not readable as JSON ({error}); quote it whole.") from None
    if not isinstance(values, dict):
        raise UserError("--parameters-json takes one JSON object, as in '{\"seed\": 1}'.")
    return values


class LabelledLines:
    """A stream that puts a label before each line, and writes whole lines, so that parallel jobs stay readable."""

    def __init__(self, stream, label):
        self.stream, self.label, self.rest = stream, label, ""

    def write(self, text):
        *lines, self.rest = (self.rest + text).replace("\r", "\n").split("\n")
        for line in filter(str.strip, lines):
            self.stream.write(f"{self.label} | {line}\n")
        self.stream.flush()

    def flush(self):
        self.stream.flush()


def run_notebook(notebook, output, parameters, threads=None, prepare_only=False, label=""):
    """Execute `notebook` into `output` from the clone's folder; its printed lines go to the terminal.

    Raises: UserError for parameters that do not fit, NotebookFailed when a cell raises or the kernel dies twice.
    """
    notebook, output = Path(notebook).resolve(), Path(output).resolve()
    check_parameters(notebook, parameters, notebook_defaults(notebook))
    need_writable(output)
    if threads:
        os.environ["FER_OPENSET_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("GLIBC_TUNABLES", ALLOCATOR)
    try:
        if _execute(notebook, output, parameters, prepare_only, label):
            return
        print(f"{label} | the kernel died (out of memory, or killed from outside); trying once more", flush=True)
        if not _execute(notebook, output, parameters, prepare_only, label):
            raise NotebookFailed("the kernel died twice: most often the machine ran out of memory")
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror}); free space or choose another.") from None


def _execute(notebook, output, parameters, prepare_only, label):
    """One attempt; False when the kernel died."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    try:
        papermill.execute_notebook(
            notebook,
            output,
            parameters,
            kernel_name="python3",
            cwd=ROOT,
            progress_bar=False,
            prepare_only=prepare_only,
            stdout_file=LabelledLines(sys.stdout, label),
            stderr_file=LabelledLines(sys.stderr, label),
            extra_arguments=["--log-level=CRITICAL"],  # the kernel's own chatter; what cells print is not part of it
        )
    except DeadKernelError:
        return False
    except papermill.PapermillExecutionError as error:
        said = " ".join(error.evalue.split())
        raise NotebookFailed(said if error.ename == "UserError" else f"{error.ename}: {said}") from None
    return True


def parse(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m workflow.run_notebook", description=__doc__.splitlines()[0])
    parser.add_argument("notebook")
    parser.add_argument("output")
    parser.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--parameters-json", default="{}", help="all parameters as one JSON object")
    parser.add_argument("--threads", type=int, help="threads that the kernel may use")
    parser.add_argument("--label", default="", help="what to put before each printed line")
    parser.add_argument("--die-with-parent", action="store_true", help="end when the batch that started it is killed")
    parser.add_argument("--prepare-only", action="store_true", help="write the notebook with its values, run nothing")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run one notebook; exit 0 when it ran through, 1 when a cell failed, 2 when the parameters do not fit."""
    options = parse(arguments)
    if options.die_with_parent:  # by hand it must outlive the terminal it was started from
        die_with_parent()
    label = options.label or Path(options.notebook).stem
    began = time.monotonic()
    try:
        values = read_json(options.parameters_json)
        if options.parameter:
            values |= read_arguments(options.parameter, notebook_defaults(options.notebook))
        print(f"start {label}\n", end="", flush=True)  # one write, line end and all: other jobs print too
        run_notebook(options.notebook, options.output, values, options.threads, options.prepare_only, label)
    except UserError as error:
        print(f"failed {label}: {error}", file=sys.stderr, flush=True)
        return 2
    except NotebookFailed as error:
        print(f"failed {label}: {error}\n  see {options.output}", file=sys.stderr, flush=True)
        return 1
    print(f"done  {label} in {time.monotonic() - began:.0f} s\n", end="", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
