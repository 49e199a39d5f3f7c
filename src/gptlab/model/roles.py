"""What a parameter is, in one table: how it is initialised, whether it is decayed, what it counts as."""

import re
from dataclasses import dataclass
from typing import Literal

KindName = Literal["embedding", "head", "matrix", "gain", "bias"]


@dataclass(frozen=True)
class Role:
    """The role of a parameter."""

    kind: KindName
    """An embedding read by row, an untied head, a matrix of a block, the gain of a norm, or a bias."""
    init: Literal["normal", "residual", "ones", "zeros"]
    """Its first values; `residual` are those of matrices that write to the residual stream."""

    @property
    def decayed(self) -> bool:
        """Whether weight decay applies; it leaves gains and biases alone."""
        return self.kind not in ("gain", "bias")


def role(name: str) -> Role:
    """Return the role of a parameter.

    Raises:
        ValueError: ROLES does not know it.
    """
    for pattern, found in ROLES.items():
        if re.fullmatch(pattern, name):
            return found
    raise ValueError(f"{name}: no role in ROLES matches this parameter; add one")


ROLES = {
    r"(embed|position)\.weight": Role("embedding", "normal"),
    r"unembed\.weight": Role("head", "normal"),
    r"blocks\.\d+\.(attention\.qkv|mlp\.(gate|up))\.weight": Role("matrix", "normal"),
    r"blocks\.\d+\.(attention\.out|mlp\.down)\.weight": Role("matrix", "residual"),
    r"(.+\.)?(norm|embed_norm|norm1|norm2|q_norm|k_norm)\.weight": Role("gain", "ones"),
    r".+\.bias": Role("bias", "zeros"),
}
