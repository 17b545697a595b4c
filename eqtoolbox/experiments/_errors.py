"""`ExperimentError`: what is wrong with what was given, in one message."""


class ExperimentError(Exception):
    """An experiment cannot be run from what was given or found; the message says why. Not a bug of the library."""
