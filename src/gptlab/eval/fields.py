"""The fields of a task's item, checked: KeyError for a missing one, ValueError for a broken one."""

from typing import Any

Fields = dict[str, Any]
"""A row of a data set."""


def text(row: Fields, field: str) -> str:
    """Return a column that holds a text."""
    value = row[field]
    if not isinstance(value, str):
        raise ValueError(f"field '{field}' is {value!r}, not text")
    return value


def texts(row: Fields, field: str) -> list[str]:
    """Return a column that holds texts, at least one."""
    value = row[field]
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        raise ValueError(f"field '{field}' is {value!r}, not a list of texts")
    return value


def label(row: Fields, field: str, choices: int) -> int:
    """Return a column that holds the index of a choice."""
    value = row[field]
    if type(value) is not int or not 0 <= value < choices:
        raise ValueError(f"field '{field}' is {value!r}, not a number from 0 to {choices - 1}")
    return value
