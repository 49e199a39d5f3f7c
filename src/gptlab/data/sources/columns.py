"""Which column of a file holds its documents: the named one, "text", "content", or the only one that holds text."""

from collections.abc import Iterable, Sequence

from gptlab.errors import DataError

TEXT_COLUMNS = ("text", "content")  # tried in this order if none is named


def only_column(texts: Sequence[str], columns: Iterable[str], place: str) -> str:
    """Return the column that holds the documents if nobody named one.

    Raises:
        DataError: several could, or none.
    """
    known = next((name for name in TEXT_COLUMNS if name in texts), None)
    if known is None and len(texts) != 1:
        several = "several columns of text" if texts else "no column of text"
        raise DataError(f"{place}: has {several}, none named {' or '.join(TEXT_COLUMNS)}; {choose(columns)}")
    return known or texts[0]


def choose(columns: Iterable[str]) -> str:
    """Tell the user which columns there are to choose from."""
    return f"the columns are {', '.join(columns) or 'none'}: choose with --text-column"
