"""The batch: a DAG of strict papermill runs over the notebooks."""

import sys

# Where it is installed, reading a notebook's schema compiles a grammar of international addresses, at 1.2 s a start. No
# schema of notebooks asks for one.
sys.modules.setdefault("rfc3987_syntax", None)
