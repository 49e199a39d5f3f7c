"""Every random state of a process: seeded together, kept together."""

import random
from typing import Any

import torch


def seed_all(seed: int) -> None:
    """Seed every random state, also those that nothing draws from yet: a checkpoint holds them all."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, Any]:
    """Return every random state of this process as JSON."""
    import numpy as np

    kind, keys, *rest = np.random.get_state()  # the global state is what must be kept
    state = {
        "python": list(random.getstate()),
        "numpy": [kind, list(map(int, keys)), *rest],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device).numpy().tobytes().hex()
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put back what `random_state` returned; a CUDA state is left out where there is no CUDA."""
    import numpy as np

    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(torch.frombuffer(bytearray.fromhex(state["torch"]), dtype=torch.uint8))
    if device.type == "cuda" and "cuda" in state:
        cuda = torch.frombuffer(bytearray.fromhex(state["cuda"]), dtype=torch.uint8)
        torch.cuda.set_rng_state(cuda, device)
