"""Progress bars where a person looks: in a terminal, or in a notebook that somebody runs. Elsewhere there are none.

What a batch, a test or a page made from a notebook keeps is plain lines.
"""

import sys
from contextlib import contextmanager

FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n:.4g} of {total} {unit} [{elapsed}<{remaining}]"


def somebody_is_there():
    """Whether a person runs this cell: JupyterLab, Notebook and VS Code send the cell's id, batch tools do not."""
    ipython = sys.modules.get("IPython")  # slow to import; a notebook has done so
    kernel = getattr(ipython and ipython.get_ipython(), "kernel", None)
    return bool(kernel) and "cellId" in (kernel.get_parent("shell").get("metadata") or {})


def watched():
    """Whether a bar would be seen."""
    return (sys.stdout.isatty() and sys.stderr.isatty()) or somebody_is_there()


@contextmanager
def bar(what, total, unit, done=0):
    """A bar for `total` things while the block runs, gone afterwards. Gives a function that moves it on by one, or by
    the part of one that it is given."""
    if not watched():
        yield lambda part=1: None
        return
    from tqdm.auto import tqdm  # in a kernel it loads widgets

    with tqdm(total=total, initial=done, desc=what, unit=unit, bar_format=FORMAT, leave=False) as shown:
        yield shown.update


def say(line):
    """Print a line, above the bar where there is one."""
    if not watched():
        print(line, flush=True)
        return
    from tqdm.auto import tqdm

    tqdm.write(line)
