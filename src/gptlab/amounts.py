"""Amounts as people read them."""


def duration(seconds: float) -> str:
    """Format a number of seconds for people: `42s`, `3m05s`, `2h07m`, `3d04h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def quantity(value: float, unit: str = "") -> str:
    """Format a count with a decimal prefix: `1.24M`, `53kB`."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{prefix}{unit}"
    return f"{value:.3g}{unit}"


def amount(value: float) -> str:
    """Write a count of tokens or parameters as model builders do: `124.4M`, `10B`."""
    if abs(value) >= 1e15:  # FLOPs, which have no such names
        return f"{value:.4g}"
    for factor, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.4g}{unit}"
    return f"{value:.4g}"
