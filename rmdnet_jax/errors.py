"""The one error that a user sees, and the checks that raise it.

A library function names its own argument: `rate must be in [0, 1], got 1.4`. Whoever calls it with
values of a config puts the path in front, by `under`: `noise.rate must be in [0, 1], got 1.4`.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import numbers
from collections.abc import Iterable, Iterator

MOST = 10  # names that an error lists


class UserError(ValueError):
    """What a user can mend: wrong input, found before work starts, or a run that cannot go on.

    Its text is one line. The commands print it and end with status 2.

    Example:
      >>> import rmdnet_jax as rmd
      >>> try:
      ...     rmd.noise.pair([0, 1, 2], rate=1.4)
      ... except rmd.UserError as error:
      ...     print(error)
      rate must be in [0, 1], got 1.4
    """

    def __init__(self, text: str, *, argument: bool = False):
        super().__init__(text)
        self.argument = argument  # the text begins with the name of an argument


@contextlib.contextmanager
def under(path: str) -> Iterator[None]:
    """Puts a config's path in front of errors: `rate must ...` -> `noise.rate must ...`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}{'.' if error.argument else ': '}{error}", argument=True) from error


def within(argument: str, value: object, interval: str, *, whole: bool = False) -> None:
    """Raises `UserError` unless a number lies in an interval such as "[0, 1)" or "(0, inf)".

    Args:
      argument: the name that the error begins with.
      value: what is checked; NaN lies in no interval.
      interval: its bounds, a round bracket where the bound itself is excluded.
      whole: whether only integers are allowed.
    """
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    kind, number = numbers.Integral if whole else numbers.Real, math.nan
    if isinstance(value, kind) and not isinstance(value, bool):
        try:
            number = float(value)  # type: ignore[arg-type]  # the abstract classes promise less
        except OverflowError:
            number = math.inf
        above = number > low if interval[0] == "(" else number >= low
        below = number < high if interval[-1] == ")" else number <= high
        if above and below:
            return
    allowed = (
        f"{'>' if interval[0] == '(' else '>='} {low:g}"
        if high == float("inf")
        else f"in {interval}"
    )
    allowed += " and finite" if number == math.inf else ""
    what = "an integer " if whole and not isinstance(value, numbers.Integral) else ""
    raise UserError(f"{argument} must be {what}{allowed}, got {value!r:.80}", argument=True)


def all_within(interval: str, *, whole: bool = False, **values: object) -> None:
    """`within` for several arguments, each by its name."""
    for argument, value in values.items():
        within(argument, value, interval, whole=whole)


def one_of(argument: str, value: object, allowed: Iterable[str]) -> None:
    """Raises `UserError` unless a name is among those allowed."""
    names = list(allowed)
    if value not in names:
        raise unknown(argument, value, names)


def unknown(argument: str, value: object, allowed: Iterable[str]) -> UserError:
    """The error for a name that is not known: lists the nearest, and what is allowed."""
    names = list(allowed)
    near = difflib.get_close_matches(str(value), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    known = ", ".join(names[:MOST])
    known += f" and {len(names) - MOST:,} more" if len(names) > MOST else ""
    text = f"{argument} must be one of the known names, got {value!r}: {hint}known: {known}"
    return UserError(text, argument=True)


def wrong(argument: str, must: str) -> UserError:
    """The error `{argument} must {must}`."""
    return UserError(f"{argument} must {must}", argument=True)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type: for errors of libraries, often long."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)[:200]
