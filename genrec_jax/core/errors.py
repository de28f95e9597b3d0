"""Exceptions that end a command with one line and a dedicated exit code (core/endings.py)."""


class InputError(ValueError):
    """An invalid config key, flag, file or line.

    The message is one line that names the key, flag, file or line, the value found and the value
    expected. The command prints it and exits with code 2. Inputs are checked before slow work
    starts.
    """


class DiskError(InputError):
    """A full, read-only or failing disk. Files that were complete before remain complete."""


class NotFiniteError(ArithmeticError):
    """The loss, a gradient or a parameter is infinite or not a number."""


class Stopped(BaseException):
    """The command stops because SIGTERM or SIGINT requested it.

    `StopRequest.check` raises it at a point where stopping loses nothing. Like KeyboardInterrupt it
    is not an `Exception`, so that no error handler catches it.
    """
