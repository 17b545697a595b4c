"""What stops a run."""


class EnsembleError(Exception):
    """A run cannot be made from what was given or found; the message says why. Not a bug of the library."""


class Stopped(Exception):
    """The run was asked to stop, by SIGTERM, and has saved where it is; the message says so."""
