"""What training took of electricity and money, estimated: the device hours are measured, all else is assumed."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """A GPU's appetite."""

    watts: float
    """Its board's limit; published by NVIDIA in its data sheets, of the SXM form where there are several."""
    usd_per_hour: float
    """Its rent: estimated, a round number for 2026, of which offers are between a half and the double."""


@dataclass(frozen=True)
class Estimate:
    """Of a training run."""

    kwh: float
    usd: float
    assuming: str


def estimate(device: str, device_hours: float) -> Estimate | None:
    """Estimate what hours on a device took; None for a device of which nothing is known.

    Args:
        device: as its driver names it.
        device_hours: hours times devices.
    """
    # A laptop's GPU is another one of the same name.
    names = (key for key in DEVICES if re.search(rf"\b{key}\b(?! Laptop)", device))
    known = next((DEVICES[name] for name in names), None)
    if known is None:
        return None
    return Estimate(
        kwh=device_hours * known.watts / 1000,
        usd=device_hours * known.usd_per_hour,
        assuming=f"{known.watts:g} W for each GPU, its limit, at all times, and nothing for the machine around it; "
        f"{known.usd_per_hour:.2f} US dollars for a GPU's hour",
    )


DEVICES = {
    "B200": Device(1000, 5.0),
    "H200": Device(700, 3.5),
    "H100 PCIe": Device(350, 2.5),
    "H100": Device(700, 3.0),
    "A100": Device(400, 1.5),
    "L40S": Device(350, 1.0),
    "L4": Device(72, 0.6),
    "V100": Device(300, 0.6),
    "T4": Device(70, 0.35),
    "RTX 4090": Device(450, 0.5),
    "RTX 3090": Device(350, 0.25),
}
