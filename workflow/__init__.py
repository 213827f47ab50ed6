"""The batch: a DAG of strict papermill runs over the notebooks."""
