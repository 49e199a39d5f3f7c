"""The commands, one file each: the parameters of its `run` are the arguments and flags."""

from collections.abc import Mapping
from typing import Any

Flags = Mapping[str, Any]
"""Keys of a recipe as flags, `--section.key VALUE`; the parser builds the list only when it needs it."""
