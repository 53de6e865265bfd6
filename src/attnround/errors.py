"""What a user can mend: one line that names what was given, what is allowed and what to do."""

import math
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from numbers import Integral

LARGEST_SEED = 2**32 - 1  # that every generator takes
MOST = 10**9  # of any option that has no bound of its own


class InputError(Exception):
    """Bad input. The entries print its one line and exit with status 1; anything else that is raised is our own bug.

    A data loader's worker hands an exception on with its traceback as the message; the last line is the message.
    """

    def __init__(self, message: str):
        if "Original Traceback" in message:
            message = re.sub(r"^[\w.]+: ", "", message.strip().splitlines()[-1])  # the kind of error
        super().__init__(message)


def reason(error: Exception) -> str:
    """The first line of another's error, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def listed(keys: list[str], most: int = 3) -> str:
    """The first few names of a list, and how many more there are."""
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")


def choice(option: str, given: object, allowed: Iterable[str]) -> str:
    """A line that says what may be given instead: the near ones, or all where none is near.

    >>> choice("quantizer", "adarond", ["gptq", "adaround"])
    'quantizer=adarond: give adaround'
    """
    names = list(allowed)
    return f"{option}={given}: give " + (" or ".join(near(given, names)) or f"one of {', '.join(names)}")


def near(given: object, names: Sequence[str]) -> list[str]:
    """Up to three of the names that are spelt like what was given."""
    return get_close_matches(str(given), names, n=3, cutoff=0.6)


def check_identity(path: object, found: str, own: str) -> None:
    """Raise InputError where a file that a run is to go on from is of another run than this one. found: the file's.

    Both are config-files+material, as `Run.going_on` and `Job.going_on` have them; what one does not know is not
    compared.
    """
    (found, _, material), (own, _, own_material) = found.partition("+"), own.partition("+")
    if found == own and material and own_material and material != own_material:
        raise InputError(
            f"{path} is of this run with other calibration images or float weights than there are now: start anew "
            "without resume"
        )
    if found != own and found.partition("-")[0] == own.partition("-")[0]:
        raise InputError(
            f"{path} is of this run before a file that its options name changed, or where that file was not found: go "
            "on in the folder that the run was started in, or start anew without resume"
        )
    if found != own:
        raise InputError(
            f"{path} is of a run with another config ({found}, this one is {own}): repeat that run's options and seed "
            "exactly, or start anew without resume"
        )


def checked_seed(seed: object) -> int:
    """A seed as every generator takes it, of numpy's whole numbers too. Raises InputError for another value."""
    seed = int(seed) if isinstance(seed, Integral) and not isinstance(seed, bool) else seed
    check_number("seed", seed, least=0, most=LARGEST_SEED, whole=True)
    return int(seed)  # type: ignore[call-overload]


def check_number(
    option: str,
    value: object,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    whole: bool = False,
) -> None:
    """Raise InputError unless this option's value is a number (a whole one) within these bounds, as a line says it.

    It must be finite, and at most 10^9 where `most` is not given: no option makes sense beyond.

    >>> check_number("quantizer.lr", 0.01, above=0)
    >>> check_number("data.batch_size", 0, least=1, whole=True)
    Traceback (most recent call last):
    attnround.errors.InputError: data.batch_size=0: give a whole number of at least 1
    """
    if isinstance(value, Integral) and not isinstance(value, bool):  # NumPy's too
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        most = MOST if most is None and value >= MOST else most
        high_enough = (least is None or value >= least) and (above is None or value > above)
        if high_enough and (most is None or value <= most) and (isinstance(value, int) or not whole):
            return
    bounds = [
        f"{word} {bound}"
        for word, bound in (("of at least", least), ("above", above), ("of at most", most))
        if bound is not None
    ]
    value = repr(value) if isinstance(value, str) and value.strip("+-").isdigit() else value  # a text, as it shows
    raise InputError(f"{option}={value}: give a {'whole ' if whole else ''}number {' and '.join(bounds)}".rstrip())
