"""The kit's own errors: each message is one line that says what is wrong and how to mend it."""


class EscError(Exception):
    """A mistake of the user or of the data; shown as one line, without a traceback."""


class OptionsDiffer(EscError):
    """An output that was made with other options than the ones asked for."""


class NoPairs(EscError):
    """A mining that ended without a pair: an error of a step, not run in a plan."""


class Waiting(EscError):
    """No mistake: what is to be done next is done elsewhere, and the same command then goes on."""
