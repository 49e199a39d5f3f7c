"""The flags of each command: the parameters of its `run`."""

from collections.abc import Mapping
from typing import Any

Flags = Mapping[str, Any]
"""Keys of a recipe as flags, `--section.key VALUE`; the parser builds the list only when it needs it."""
