"""What training cost, as a card tells it."""

from dataclasses import dataclass

from gptlab.machine.gpus import known


@dataclass(frozen=True)
class Bill:
    """The electricity and money that training took: device hours are measured, the rest is assumed."""

    kwh: float
    usd: float
    assuming: str


def estimate_bill(device: str, device_hours: float) -> Bill | None:
    """Estimate the electricity and money of hours times devices, by the name that the driver gives; None if unknown."""
    gpu = known(device)
    if gpu is None or gpu.watts is None or gpu.usd_per_hour is None:
        return None
    return Bill(
        kwh=device_hours * gpu.watts / 1000,
        usd=device_hours * gpu.usd_per_hour,
        assuming=f"{gpu.watts:g} W for each GPU, its power limit, at all times, and nothing for the rest of the "
        f"machine; {gpu.usd_per_hour:.2f} US dollars per GPU hour",
    )
