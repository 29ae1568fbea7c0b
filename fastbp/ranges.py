"""Numbers and names that users pass, checked: what was got, and what is wanted instead."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np


def check_range(
    name: str, value: float, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> None:
    """Refuse a value outside an interval; NaN is outside of every one.

    Raises
    ------
    TypeError
        If the value is no number.
    ValueError
        If it lies outside.
    """
    try:
        inside = (low < value if open_low else low <= value) and (value < high if open_high else value <= high)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; pass a number") from None
    if not inside:
        interval = f"{'(' if open_low else '['}{low}, {high}{')' if open_high else ']'}"
        raise ValueError(f"{name} is {value!r}; pass a number in {interval}")


def check_whole(name: str, value: Any, least: int, unit: str = "") -> None:
    """Refuse what is no whole number of at least ``least``; ``unit`` ends the message.

    Raises
    ------
    ValueError
        If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} is {value!r}; pass a whole number of at least {least}{unit and f' {unit}'}")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Refuse what is not among some names.

    Raises
    ------
    ValueError
        If it is not.
    """
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(repr, choices))}")
