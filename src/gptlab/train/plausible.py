"""Settings that are known to train models of a size; a run outside of them is warned before it starts."""

from collections.abc import Iterator

from gptlab.amounts import quantity
from gptlab.train.optim import AdamWConfig, OptimConfig
from gptlab.train.schedule import ScheduleConfig

DECAY_FLOOR = 0.1  # GPT-3 (section 2.3) ends at a tenth and llm.c's GPT-2 at zero; recipes/ do either
RATES: dict[float, tuple[float, float]] = {
    1e6: (5e-4, 2e-2),
    20e6: (5e-4, 4e-3),
    100e6: (5e-4, 2e-3),
    200e6: (3e-4, 2.4e-3),
    500e6: (1.5e-4, 2.4e-3),
    1.1e9: (1.2e-4, 6e-4),
    3e9: (8e-5, 4e-4),
    20e9: (5e-5, 2.4e-4),
}
"""By the largest number of parameters: the lowest and highest peak learning rate of AdamW without a warning.

They are half of the lowest and twice the highest rate known to train such models: in GPT-3 (Brown et al. 2020,
https://arxiv.org/abs/2005.14165, table 2.1), Pythia (Biderman et al. 2023, https://arxiv.org/abs/2304.01373,
table 1), recipes/, and below a million parameters this repository's tests. At 4e-3 a user's model of 124M ended at a
loss of 7.8.
"""


def complaints(
    optim: OptimConfig, schedule: ScheduleConfig, *, dtype: str, parameters: int, bfloat16: bool
) -> Iterator[str]:
    """Yield a line for each setting outside of what is known to train well; it may still be right."""
    low, high = next((rates for most, rates in RATES.items() if parameters <= most), (0.0, float("inf")))
    if isinstance(optim, AdamWConfig) and not low <= optim.lr <= high:
        fate = "it may diverge" if optim.lr > high else "it will learn slowly"
        yield (
            f"optim.lr = {optim.lr:g}: models of {quantity(parameters)} parameters train with {low:g} to "
            f"{high:g}; {fate}"
        )
    if schedule.name != "constant" and schedule.final_fraction > DECAY_FLOOR:
        yield (
            f"schedule.final_fraction = {schedule.final_fraction:g}: a decay that ends above {DECAY_FLOOR:g} leaves "
            f"loss on the table; recipes end between 0 and {DECAY_FLOOR:g}"
        )
    if dtype == "float16" and bfloat16:
        yield "train.dtype = float16: this device supports bfloat16, which needs no loss scaling and does not overflow"
