"""What a user can mend: one line that names what was given, what is allowed and what to do."""


class InputError(Exception):
    """Bad input. The entries print its one line and exit with status 1; anything else that is raised is our own bug.

    A data loader's worker hands an exception on with its traceback as the message; the last line is the message.
    """

    def __init__(self, message: str):
        super().__init__(message.strip().splitlines()[-1].removeprefix(f"{__name__}.InputError: "))


def reason(error: Exception) -> str:
    """The first line of another's error, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
