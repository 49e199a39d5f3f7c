import math

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from gptlab.model.position import POSITIONS, Position, RoPE

CONTEXT, WIDTH, HEADS, HEAD_DIM, THETA = 32, 24, 4, 6, 100.0
HOOKS = ("embed", "rotate", "bias")


def built(name: str) -> Position:
    position = POSITIONS[name](CONTEXT, WIDTH, HEAD_DIM, theta=THETA)
    with torch.no_grad():
        for parameter in position.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    return position


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rotate_slowly(x_BHTK: Tensor, start: int) -> Tensor:
    """Rotate every pair of channels separately, as a complex number."""
    y_BHTK = torch.empty_like(x_BHTK)
    for t in range(x_BHTK.shape[2]):
        for i in range(HEAD_DIM // 2):
            angle = (start + t) * THETA ** (-2 * i / HEAD_DIM)
            first, second = x_BHTK[:, :, t, i], x_BHTK[:, :, t, i + HEAD_DIM // 2]
            y_BHTK[:, :, t, i] = first * math.cos(angle) - second * math.sin(angle)
            y_BHTK[:, :, t, i + HEAD_DIM // 2] = first * math.sin(angle) + second * math.cos(angle)
    return y_BHTK


@pytest.mark.parametrize("start", [0, 1, 13])
def test_rope_turns_each_pair_by_its_time(start: int) -> None:
    x_BHTK = noise(2, HEADS, 9, HEAD_DIM)
    torch.testing.assert_close(built("rope").rotate(x_BHTK, start), rotate_slowly(x_BHTK, start))


def test_rope_leaves_the_first_token_and_every_length() -> None:
    x_BHTK = noise(2, HEADS, CONTEXT, HEAD_DIM)
    turned_BHTK = built("rope").rotate(x_BHTK, 0)
    assert torch.equal(turned_BHTK[:, :, 0], x_BHTK[:, :, 0])
    torch.testing.assert_close(turned_BHTK.norm(dim=-1), x_BHTK.norm(dim=-1))


def test_rope_products_depend_on_the_distance_only() -> None:
    rope, q, k = built("rope"), noise(1, 1, 1, HEAD_DIM), noise(1, 1, 1, HEAD_DIM, seed=1)
    products = {
        (i, j): (rope.rotate(q, i) * rope.rotate(k, j)).sum() for i in range(CONTEXT) for j in range(CONTEXT)
    }
    for (i, j), product in products.items():
        torch.testing.assert_close(product, products[max(i - j, 0), max(j - i, 0)], atol=1e-5, rtol=0)
    assert max(products.values()) - min(products.values()) > 0.1


def test_rope_turns_alike_in_every_row_and_head() -> None:
    turned_BHTK = built("rope").rotate(noise(HEAD_DIM).expand(3, HEADS, 7, HEAD_DIM), 0)
    assert torch.equal(turned_BHTK, turned_BHTK[:1, :1].expand_as(turned_BHTK))
    assert not torch.equal(turned_BHTK[:, :, 0], turned_BHTK[:, :, 1])


def test_rope_keeps_bfloat16_positions_apart() -> None:
    # 255 and 256 are neighbours in bfloat16, 256 and 257 the same number.
    rope = RoPE(300, WIDTH, HEAD_DIM, theta=THETA)
    x_BHTK = torch.ones(1, 1, 300, HEAD_DIM, dtype=torch.bfloat16)
    turned_BHTK = rope.rotate(x_BHTK, 0)
    assert turned_BHTK.dtype == torch.bfloat16
    torch.testing.assert_close(turned_BHTK, rope.rotate(x_BHTK.float(), 0).bfloat16(), rtol=0, atol=0)
    assert not torch.equal(turned_BHTK[:, :, 256], turned_BHTK[:, :, 257])


@pytest.mark.parametrize("start", [0, 5])
def test_learned_adds_the_row_of_each_position(start: int) -> None:
    position, x_BTD = built("learned"), noise(2, 7, WIDTH)
    for t in range(7):
        torch.testing.assert_close(
            position.embed(x_BTD, start)[:, t], x_BTD[:, t] + position.get_parameter("weight")[start + t]
        )


@pytest.mark.parametrize("n_head", range(1, 41))
def test_alibis_slopes_are_those_of_transformers(n_head: int) -> None:
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    mpt = pytest.importorskip("transformers.models.mpt.modeling_mpt")
    bias_HTS = POSITIONS["alibi"](CONTEXT, n_head * HEAD_DIM, HEAD_DIM, theta=THETA).bias(0, 9)[0]
    # Theirs leaves out what all keys of a query have in common, which the softmax cancels.
    for theirs in (
        bloom.build_alibi_tensor(torch.ones(1, 9), n_head, torch.float32),
        mpt.build_mpt_alibi_tensor(n_head, 9),
    ):
        expected_HTS = theirs - theirs[:, :, :1] + bias_HTS[:, :, :1]
        torch.testing.assert_close(bias_HTS, expected_HTS, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("start", [0, 5])
def test_alibi_is_a_slope_times_the_distance(start: int) -> None:
    bias_HTS = built("alibi").bias(start, 7)[0]
    assert bias_HTS.shape == (HEADS, 7, start + 7)
    for head, slope in enumerate([1 / 4, 1 / 16, 1 / 64, 1 / 256]):
        for t in range(7):
            for s in range(start + 7):
                assert bias_HTS[head, t, s] == -slope * (start + t - s)


def test_alibi_reads_the_positions_of_each_row() -> None:
    positions_BT = torch.tensor([[0, 1, 2, 2, 3], [7, 8, 9, 10, 8]])
    bias_BHTT = built("alibi").bias(positions_BT, 5)
    for row, positions_T in enumerate(positions_BT.tolist()):
        for t, s in ((0, 0), (3, 2), (4, 1), (4, 3)):
            assert bias_BHTT[row, 1, t, s] == -(positions_T[t] - positions_T[s]) / 16


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        (name, hook)
        for name, kind in POSITIONS.items()
        for hook in HOOKS
        if getattr(kind, hook) is getattr(Position, hook)
    ],
)
def test_a_hook_that_is_not_spoken_of_does_nothing(name: str, hook: str) -> None:
    if hook == "bias":
        assert built(name).bias(3, 7) is None
        return
    x = noise(2, HEADS, 7, HEAD_DIM) if hook == "rotate" else noise(2, 7, WIDTH)
    assert torch.equal(getattr(built(name), hook)(x, 3), x)


def test_the_test_run_checks_the_shapes_in_signatures() -> None:
    # By the pytest option --jaxtyping-packages. It cannot catch (batch, time, heads, channels), which has the right
    # number of axes; test_check.py catches its effect.
    with pytest.raises(TypeCheckError, match="x_BHTK"):
        built("rope").rotate(noise(2, 7, WIDTH), 0)
