"""The keys of a recipe on the command line."""

from collections.abc import Mapping
from typing import Any

Flags = Mapping[str, Any]
"""Keys of a recipe as flags, `--section.key VALUE`; the parser learns which there are only when it needs to."""
