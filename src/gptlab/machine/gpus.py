"""The GPUs that are known by name: what their makers publish of them, and what they cost."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class GPU:
    """A GPU, as its data sheet has it; of the SXM form where there are several."""

    half: float
    """Dense peak of its matrix units in FLOP/s, in the half-precision formats, which are equal on all of these."""
    tf32: float | None
    """The same in TF32; None where it has none."""
    watts: float | None
    """Its board's limit; None where it is not published."""
    usd_per_hour: float | None
    """Its rent: estimated, a round number for 2026, of which offers are between a half and the double."""


@dataclass(frozen=True)
class Estimate:
    """What training took of electricity and money: the device hours are measured, all else is assumed."""

    kwh: float
    usd: float
    assuming: str


def known(device: str) -> GPU | None:
    """Return the GPU that a driver's name stands for; None for one that is not in GPUS."""
    # Whole words, as an L40 is no L4; and a laptop's GPU is another one of the same name.
    names = (key for key in GPUS if re.search(rf"\b{key}\b(?! Laptop)", device))
    return next((GPUS[name] for name in names), None)


def estimate(device: str, device_hours: float) -> Estimate | None:
    """Estimate what hours on a device took; None for a device of which too little is known.

    Args:
        device: as its driver names it.
        device_hours: hours times devices.
    """
    gpu = known(device)
    if gpu is None or gpu.watts is None or gpu.usd_per_hour is None:
        return None
    return Estimate(
        kwh=device_hours * gpu.watts / 1000,
        usd=device_hours * gpu.usd_per_hour,
        assuming=f"{gpu.watts:g} W for each GPU, its limit, at all times, and nothing for the machine around it; "
        f"{gpu.usd_per_hour:.2f} US dollars for a GPU's hour",
    )


# The first name found in the device's own decides.
GPUS = {
    "B200": GPU(2.25e15, 1.1e15, 1000, 5.0),
    "H200": GPU(989.4e12, 494.7e12, 700, 3.5),
    "H100 PCIe": GPU(756e12, 378e12, 350, 2.5),
    "H100": GPU(989.4e12, 494.7e12, 700, 3.0),
    "A100": GPU(312e12, 156e12, 400, 1.5),
    "L40S": GPU(362e12, 183e12, 350, 1.0),
    "L4": GPU(121e12, 60e12, 72, 0.6),
    "A10G": GPU(70e12, 35e12, None, None),
    "V100": GPU(125e12, None, 300, 0.6),
    "T4": GPU(65e12, None, 70, 0.35),
    "RTX 4090": GPU(165.2e12, 82.6e12, 450, 0.5),
    "RTX 3090": GPU(71e12, 35.6e12, 350, 0.25),
}
