"""Checks of numeric arguments."""

from __future__ import annotations

import operator
from numbers import Real


def check_int(name: str, value: int, least: int | None = None, most: int | None = None) -> int:
    """Checks an int, or an object with `__index__` other than a bool, and its range.

    Raises:
        TypeError: If it is something else.
        ValueError: If it is out of range.
    """
    if type(value) is int:
        number = value
    elif isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise TypeError(f"{name}: expected an int, got {type(value).__name__}")
    else:
        try:
            number = operator.index(value)
        except TypeError:  # an array of floats, say
            raise TypeError(f"{name}: expected an int, got {type(value).__name__}") from None
    if least is not None and most is not None and not least <= number <= most:
        raise ValueError(f"{name}: expected {_text(least)} to {_text(most)}, got {number}")
    if least is not None and number < least:
        raise ValueError(f"{name}: expected at least {least}, got {number}")
    return number


def check_count(name: str, value: float, least: int | None = None, most: int | None = None) -> int:
    """Like `check_int`, but also accepts floats that are whole numbers, such as `1e6`.

    Raises:
        TypeError: If it is something else.
        ValueError: If it is out of range.
    """
    if isinstance(value, Real) and not hasattr(type(value), "__index__"):
        if not float(value).is_integer():
            raise TypeError(f"{name}: expected a whole number, got {type(value).__name__} {value}")
        value = int(value)
    return check_int(name, value, least, most)  # type: ignore[arg-type]


def _text(number: int) -> str:
    """Formats a number; large ones at a power of two also show the power."""
    if number >= 2**31 and (number + 1) & number == 0:
        return f"2**{number.bit_length()} - 1"
    if number >= 2**31 and (number - 1) & number == 0:
        return f"{number} (2**{number.bit_length() - 1})"
    return str(number)
