"""The exceptions that end a command with one line and an exit code of their own (endings.py)."""


class InputError(ValueError):
    """A wrong config key, file or line.

    Its text is one line that names the key, file or line, what was found and what is expected.
    The command line prints it and leaves with exit code 2; nothing slow has started by then.
    """


class DiskError(InputError):
    """A disk that is full, read-only or failing. What was whole before is whole still."""


class NotFiniteError(ArithmeticError):
    """The loss, a gradient or a parameter is infinite or not a number."""


class Stopped(BaseException):
    """SIGTERM or SIGINT was heeded. Like KeyboardInterrupt it is no error: nothing catches it."""
