"""All random states of a process, seeded and saved together."""

import random
from typing import Any

import torch


def seed_all(seed: int) -> None:
    """Seed every random state, even unused ones, as a checkpoint holds them all."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, Any]:
    """Return every random state of this process as JSON."""
    import numpy as np

    kind, keys, *rest = np.random.get_state()  # the global state, which others may draw from
    state = {
        "python": list(random.getstate()),
        "numpy": [kind, list(map(int, keys)), *rest],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if device.type != "cpu":
        of_gpu = torch.get_device_module(device).get_rng_state(device)
        state[device.type] = of_gpu.numpy().tobytes().hex()
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restore what `random_state` returned; skip that of a GPU of another kind."""
    import numpy as np

    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(torch.frombuffer(bytearray.fromhex(state["torch"]), dtype=torch.uint8))
    if device.type != "cpu" and device.type in state:
        of_gpu = torch.frombuffer(bytearray.fromhex(state[device.type]), dtype=torch.uint8)
        torch.get_device_module(device).set_rng_state(of_gpu, device)
