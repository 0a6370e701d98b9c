"""The errors that users can cause, apart from Python's own."""


class InputError(ValueError):
    """A bad argument, file or data set.

    The message is one line that names what was given, what was expected and what came. The command
    line prints it and exits with status 2; in Python it is a ``ValueError``.
    """


class BackendUnavailableError(InputError):
    """The device that was asked for cannot be used; the message names the missing piece."""
