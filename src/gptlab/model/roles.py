"""What a parameter is: how it starts, whether it is decayed, what it counts as. One table, which all of these read."""

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Role:
    """What a parameter of this name is."""

    kind: Literal["table", "head", "matrix", "gain", "bias"]
    """A table that is read by row, an untied head, a matrix of a block, what a norm multiplies by, what is added."""
    start: Literal["normal", "smaller", "ones", "zeros"]
    """Its first values; smaller ones where it writes to the residual stream, whose variance grows with depth."""

    @property
    def decayed(self) -> bool:
        """Whether weight decay pulls at it: gains and biases are left alone."""
        return self.kind not in ("gain", "bias")


def role(name: str) -> Role:
    """Return the role of a parameter.

    Raises:
        ValueError: ROLES does not know it.
    """
    for pattern, found in ROLES.items():
        if re.fullmatch(pattern, name):
            return found
    raise ValueError(
        f"{name}: what kind of parameter it is and how it starts is not known; give it a role in ROLES"
    )


ROLES = {
    r"(embed|position)\.weight": Role("table", "normal"),
    r"unembed\.weight": Role("head", "normal"),
    r"blocks\.\d+\.(attention\.qkv|mlp\.(gate|up))\.weight": Role("matrix", "normal"),
    r"blocks\.\d+\.(attention\.out|mlp\.down)\.weight": Role("matrix", "smaller"),
    r"(.+\.)?(norm|norm1|norm2|q_norm|k_norm)\.weight": Role("gain", "ones"),
    r".+\.bias": Role("bias", "zeros"),
}
