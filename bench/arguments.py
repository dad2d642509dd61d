"""Types for argparse, which the benches share: what is wrong is said before anything is measured."""

import argparse
import pathlib


def folder(text: str) -> pathlib.Path:
    path = pathlib.Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"'{text}' is no folder")
    return path


def number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"'{text}': a number is wanted, at least 1")
    return int(text)


def numbers(text: str) -> list[int]:
    return [number(part) for part in text.split(",")]


def words(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def names(known, least: int = 1):
    """A list cut at commas, of what is known."""

    def parse(text: str) -> list[str]:
        unknown = [part for part in words(text) if part not in known]
        if unknown or len(words(text)) < least:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown) or 'none is named'}: there are {', '.join(known)}")
        return words(text)

    return parse
