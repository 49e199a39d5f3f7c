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
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device).numpy().tobytes().hex()
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restore what `random_state` returned; without CUDA, skip a CUDA state."""
    import numpy as np

    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(torch.frombuffer(bytearray.fromhex(state["torch"]), dtype=torch.uint8))
    if device.type == "cuda" and "cuda" in state:
        cuda = torch.frombuffer(bytearray.fromhex(state["cuda"]), dtype=torch.uint8)
        torch.cuda.set_rng_state(cuda, device)
