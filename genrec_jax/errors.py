"""The one exception that stands for a mistake in what the user gave."""


class InputError(ValueError):
    """A wrong config key, file or line.

    Its text is one line that names the key, file or line, what was found and what is expected.
    The command line prints it and leaves with exit code 2; nothing slow has started by then.
    """
