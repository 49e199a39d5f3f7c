"""The rate at which this machine does the matrix products of a pass, and nothing else."""

import time
from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

from gptlab.bench.rig import Rig
from gptlab.machine.device import operand_dtype, synchronise
from gptlab.model.loss import CHUNK_TOKENS, HEAD_MULTIPLE


@dataclass(frozen=True)
class Product:
    """A layer's product; its gradients take two more of the same size."""

    tokens: int
    inputs: int
    outputs: int

    @property
    def flops(self) -> int:
        """Of all three."""
        return 6 * self.tokens * self.inputs * self.outputs


def products_of(rig: Rig) -> Counter[Product]:
    """Count the products of a pass by shape."""
    model, tokens, device = (
        rig.updater.state.model,
        rig.sequences * rig.config.model.context,
        rig.world.device,
    )
    found: Counter[Product] = Counter()
    for module in model.blocks.modules():
        if isinstance(module, nn.Linear):
            found[Product(tokens, module.in_features, module.out_features)] += 1
    rows, width = model.head_weight_VD.shape
    rows += -rows % HEAD_MULTIPLE.get(device.type, 1)
    chunk = min(tokens, CHUNK_TOKENS.get(device.type, tokens))
    found[Product(chunk, width, rows)] += max(1, tokens // chunk)
    return found


def product_rate(rig: Rig, products: Counter[Product]) -> float:
    """Measure the FLOP/s of products, each shape once and weighted by how often it occurs."""
    dtype, device = operand_dtype(rig.updater.dtype), rig.world.device
    flops = seconds = 0.0
    for product, times in products.items():
        x = torch.randn(product.tokens, product.inputs, device=device, dtype=dtype)
        weight = torch.randn(product.outputs, product.inputs, device=device, dtype=dtype)
        slope = torch.randn(product.tokens, product.outputs, device=device, dtype=dtype)
        synchronise(device)
        began = time.perf_counter()
        _ = x @ weight.T, slope @ weight, slope.T @ x
        synchronise(device)
        seconds += times * (time.perf_counter() - began)
        flops += times * product.flops
    return flops / seconds
