"""The one error a user is meant to read."""


class UserError(Exception):
    """Bad input, said in one sentence: which file, row or key, what was expected, what to do.

    Notebooks and the command line show only the message; anything else that is raised is a bug of ours.
    """
