import pytest

from gptlab.publish.bill import estimate_bill


def test_a_published_run() -> None:
    # llm.c, discussion 481: 124M on 8 A100 in 1.5 hours, about 20 dollars.
    found = estimate_bill("NVIDIA A100-SXM4-80GB", 8 * 1.5)
    assert found is not None
    assert found.kwh == pytest.approx(4.8)
    assert found.usd == pytest.approx(20, rel=0.15)
    assert "400 W" in found.assuming
    assert "1.50 US dollars" in found.assuming


@pytest.mark.parametrize(
    ("device", "watts"),
    [
        ("NVIDIA H100 PCIe", 350),
        ("NVIDIA H100 80GB HBM3", 700),
        ("NVIDIA L40S", 350),
        ("NVIDIA L4", 72),
        ("Tesla T4", 70),
        ("NVIDIA GeForce RTX 4090", 450),
    ],
)
def test_devices_by_the_names_of_their_drivers(device: str, watts: float) -> None:
    found = estimate_bill(device, 10)
    assert found is not None
    assert found.kwh == pytest.approx(watts / 100)


@pytest.mark.parametrize(
    "device", ["AMD EPYC", "NVIDIA L40", "NVIDIA T400", "NVIDIA GeForce RTX 4090 Laptop GPU"]
)
def test_of_what_is_not_known_nothing_is_estimated(device: str) -> None:
    assert estimate_bill(device, 10) is None
