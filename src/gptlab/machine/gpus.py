"""GPUs by name: their published figures and their rent."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class GPU:
    """A GPU as in its data sheet, in the SXM form where there are several."""

    half: float
    """Dense peak of its matrix units in FLOP/s, the same in both half-precision formats."""
    tf32: float | None
    """The same in TF32; None if it has no TF32."""
    watts: float | None
    """Power limit of the board; None if unpublished."""
    usd_per_hour: float | None
    """Rent: a round estimate for 2026; offers lie between half and twice of it."""
    memory: float
    """Bytes; of the smallest form."""


def known(device: str) -> GPU | None:
    """Return the GPU that a driver's name means; None if GPUS lacks it."""
    # Whole words, as an L40 is not an L4; and a laptop GPU of the same name is a different one.
    names = (key for key in GPUS if re.search(rf"\b{key}\b(?! Laptop)", device))
    return next((GPUS[name] for name in names), None)


# The first key found in the device's name decides.
GPUS = {
    "B200": GPU(2.25e15, 1.1e15, 1000, 5.0, 180e9),
    "H200": GPU(989.4e12, 494.7e12, 700, 3.5, 141e9),
    "H100 PCIe": GPU(756e12, 378e12, 350, 2.5, 80e9),
    "H100": GPU(989.4e12, 494.7e12, 700, 3.0, 80e9),
    "A100": GPU(312e12, 156e12, 400, 1.5, 40e9),
    "L40S": GPU(362e12, 183e12, 350, 1.0, 48e9),
    "L4": GPU(121e12, 60e12, 72, 0.6, 24e9),
    "A10G": GPU(70e12, 35e12, None, None, 24e9),
    "V100": GPU(125e12, None, 300, 0.6, 16e9),
    "T4": GPU(65e12, None, 70, 0.35, 16e9),
    "RTX 4090": GPU(165.2e12, 82.6e12, 450, 0.5, 24e9),
    "RTX 3090": GPU(71e12, 35.6e12, 350, 0.25, 24e9),
}
