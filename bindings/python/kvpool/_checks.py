"""What arguments and files must be, and the line that says it: what it is of, its value, and what is wanted."""

import operator
import reprlib
from typing import Any

from kvpool.errors import InvalidArgument


def refuse(what: str, value: object, wanted: str) -> InvalidArgument:
    said = "missing or None" if value is None else reprlib.repr(value)
    return InvalidArgument(f"{what} is {said}; {wanted} is wanted")


def count(value: Any, what: str, least: int = 1, most: int = 2**32 - 1) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if isinstance(value, bool) or not least <= number <= most:
        raise refuse(what, value, f"a whole number from {least} to {most}")
    return number


def plain_text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise refuse(what, value, "a str")
    before, zero, _ = value.partition("\0")
    if zero:
        line = before.count("\n") + 1
        raise InvalidArgument(f"{what} holds a zero byte, in line {line}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{what} is no UTF-8: {error.reason}") from None
    return value
