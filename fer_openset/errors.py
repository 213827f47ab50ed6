"""The one error a user is meant to read."""


class UserError(Exception):
    """Bad input, said in one sentence: which file, row or key, what was expected, what to do.

    Notebooks and the command line show only the message; anything else that is raised is a bug of ours.
    """


class Unmatched(UserError):
    """A list of images and the files on disk disagree: how many are listed and found, and the names of one kind."""

    def __init__(self, sentence, listed, found, names):
        super().__init__(sentence)
        self.listed, self.found, self.names = listed, found, names
