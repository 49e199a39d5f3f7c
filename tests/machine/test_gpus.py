"""GPUs, found by their drivers' names."""

import pytest

from gptlab.machine.gpus import GPUS, known


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("Tesla T4", "T4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
    ],
)
def test_a_known_gpu(name: str, key: str):
    assert known(name) == GPUS[key]


@pytest.mark.parametrize(
    "name", ["NVIDIA L40", "NVIDIA T400", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA A10"]
)
def test_one_of_a_similar_name_is_another(name: str):
    assert known(name) is None
