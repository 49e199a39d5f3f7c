import math

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from gptlab.model.position import POSITIONS, NoPosition, RoPE

CONTEXT, WIDTH, HEADS, HEAD_DIM, THETA = 32, 24, 4, 6, 100.0


def built(name: str) -> NoPosition:
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


@pytest.mark.parametrize(
    ("name", "hook"), [("none", "embed"), ("none", "rotate"), ("learned", "rotate"), ("rope", "embed")]
)
def test_a_hook_that_is_not_spoken_of_does_nothing(name: str, hook: str) -> None:
    x = noise(2, HEADS, 7, HEAD_DIM) if hook == "rotate" else noise(2, 7, WIDTH)
    assert torch.equal(getattr(built(name), hook)(x, 3), x)


def test_the_test_run_checks_the_shapes_in_signatures() -> None:
    # By the pytest option --jaxtyping-packages. It cannot catch (batch, time, heads, channels), which has the right
    # number of axes; test_check.py catches its effect.
    with pytest.raises(TypeCheckError, match="x_BHTK"):
        built("rope").rotate(noise(2, 7, WIDTH), 0)
