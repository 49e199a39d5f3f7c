import math
from copy import deepcopy

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from gptlab.model.attention import Attention, BlockInputs, LayerCache, Layout, masked
from gptlab.model.position import POSITIONS, Position

WIDTH, HEADS, CONTEXT = 24, 6, 16
HEAD_DIM = WIDTH // HEADS
GROUPS = [
    pytest.param(HEADS, id="multi-head"),
    pytest.param(2, id="grouped"),
    pytest.param(1, id="multi-query"),
]


def encoding_of(name: str) -> Position:
    return POSITIONS[name](CONTEXT, WIDTH, HEAD_DIM, theta=100.0)


def built(
    n_kv_head: int, *, position: str = "rope", norm: str = "rmsnorm", qk_norm: bool = False
) -> Attention:
    torch.manual_seed(0)
    encoding = encoding_of(position)
    attention = Attention(
        WIDTH, HEADS, n_kv_head, position=encoding, bias=True, qk_norm=qk_norm, norm=norm, norm_eps=1e-5
    )
    with torch.no_grad():
        for parameter in attention.parameters():
            # Large enough that the softmax is far from uniform.
            parameter.normal_(std=0.4)
    return attention


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference(attention: Attention, position: Position, x_BTD: Tensor) -> Tensor:
    """Attend row by row, head by head and query by query, as in a textbook and in float64."""
    attention, position, x_BTD = deepcopy(attention).double(), deepcopy(position).double(), x_BTD.double()
    n_batch, n_time, _ = x_BTD.shape
    weight, bias = attention.qkv.weight, attention.qkv.bias
    queries_of_a_key = HEADS // attention.n_kv_head

    def read(row: int, t: int, part: int) -> Tensor:
        channels = slice(part * HEAD_DIM, (part + 1) * HEAD_DIM)
        return weight[channels] @ x_BTD[row, t] + bias[channels]

    def turned(vector_K: Tensor, t: int) -> Tensor:
        return position.rotate(vector_K.view(1, 1, 1, HEAD_DIM), t).flatten()

    def added(head: int, t: int, s: int) -> Tensor | float:
        bias_HS = position.bias(t, 1)
        return 0.0 if bias_HS is None else bias_HS[0, head, 0, s]

    y_BTD = torch.empty_like(x_BTD)
    for row in range(n_batch):
        for t in range(n_time):
            heads: list[Tensor] = []
            for head in range(HEADS):
                group = head // queries_of_a_key
                q_K = turned(attention.q_norm(read(row, t, head)), t)
                scores: list[Tensor] = []
                for s in range(t + 1):
                    k_K = turned(attention.k_norm(read(row, s, HEADS + group)), s)
                    scores.append(q_K @ k_K / math.sqrt(HEAD_DIM) + added(head, t, s))
                shares = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
                values = [read(row, s, HEADS + attention.n_kv_head + group) for s in range(t + 1)]
                heads.append(
                    sum(
                        (share * v_K for share, v_K in zip(shares, values, strict=True)),
                        torch.zeros(HEAD_DIM, dtype=torch.float64),
                    )
                )
            y_BTD[row, t] = attention.out.weight @ torch.cat(heads) + attention.out.bias
    return y_BTD.float()


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("n_kv_head", GROUPS)
def test_attention_is_the_textbooks(n_kv_head: int, position: str, qk_norm: bool) -> None:
    attention, x_BTD = built(n_kv_head, position=position, qk_norm=qk_norm), noise(2, 7, WIDTH)
    encoding = encoding_of(position)
    with torch.no_grad():
        expected_BTD = reference(attention, encoding, x_BTD)
        y_BTD = attention(x_BTD, BlockInputs(score_bias=masked(encoding.bias(0, 7))))
    torch.testing.assert_close(y_BTD, expected_BTD, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("pieces", [(7,), (1,) * 7, (1, 6), (3, 4), (4, 1, 2), (6, 1)])
@pytest.mark.parametrize("n_kv_head", GROUPS)
def test_a_cache_continues_the_textbooks(n_kv_head: int, pieces: tuple[int, ...], position: str) -> None:
    attention, x_BTD = built(n_kv_head, position=position, qk_norm=True), noise(2, 7, WIDTH)
    cache, encoding = (
        LayerCache(torch.full((2, n_kv_head, CONTEXT, 2, HEAD_DIM), torch.nan)),
        encoding_of(position),
    )

    def read(piece_BTD: Tensor) -> Tensor:
        bias = masked(encoding.bias(cache.length, piece_BTD.shape[1]))
        return attention(piece_BTD, BlockInputs(cache, score_bias=bias))

    with torch.no_grad():
        y_BTD = torch.cat([read(piece_BTD) for piece_BTD in x_BTD.split(pieces, 1)], 1)
        expected_BTD = reference(attention, encoding, x_BTD)
    torch.testing.assert_close(y_BTD, expected_BTD, atol=1e-5, rtol=1e-5)
    assert cache.length == 7


def test_a_cache_of_half_the_bytes_gives_back_the_format_of_the_new() -> None:
    cache, parts = (
        LayerCache(torch.zeros(2, 3, 4, 2, HEAD_DIM, dtype=torch.bfloat16)),
        noise(2, 2, 3, 4, HEAD_DIM),
    )
    for time in range(4):
        found = cache.append(*parts[:, :, :, time : time + 1])
    for part, whole in zip(found, parts, strict=True):
        assert part.dtype == torch.float32
        assert torch.equal(part, whole.bfloat16().float())


@pytest.mark.parametrize("position", POSITIONS)
def test_a_layout_keeps_texts_in_one_row_apart(position: str) -> None:
    # Two endings of three tokens behind a beginning of two.
    attention, encoding, x_BTD = built(2, position=position), encoding_of(position), noise(1, 8, WIDTH)
    positions_BT = torch.tensor([[0, 1, 2, 3, 4, 2, 3, 4]])
    visible_BTT = torch.ones(1, 8, 8, dtype=torch.bool).tril()
    visible_BTT[:, 5:, 2:5] = False
    layout = Layout(positions_BT, visible_BTT)
    with torch.no_grad():
        bias = masked(encoding.bias(positions_BT, 8), layout)
        y_BTD = attention(x_BTD, BlockInputs(layout=layout, score_bias=bias))
        first_BTD = reference(attention, encoding, x_BTD[:, :5])
        second_BTD = reference(attention, encoding, x_BTD[:, [0, 1, 5, 6, 7]])
    torch.testing.assert_close(y_BTD[:, :5], first_BTD, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(y_BTD[:, 5:], second_BTD[:, 2:], atol=1e-5, rtol=1e-5)


def test_a_bias_has_the_format_of_attention() -> None:
    bias = encoding_of("alibi").bias(0, 3)
    assert masked(bias).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert masked(bias).dtype == torch.bfloat16


def test_a_group_for_every_head_is_multi_head() -> None:
    # The same keys and values, once per group and once repeated for each head of the group.
    grouped, multi, x_BTD = built(2), built(HEADS), noise(2, 7, WIDTH)
    q_HKD, k_GKD, v_GKD = grouped.qkv.weight.unflatten(0, (-1, HEAD_DIM)).split((HEADS, 2, 2))
    q_HK, k_GK, v_GK = grouped.qkv.bias.unflatten(0, (-1, HEAD_DIM)).split((HEADS, 2, 2))
    with torch.no_grad():
        for target, parts in (
            (multi.qkv.weight, (q_HKD, k_GKD, v_GKD)),
            (multi.qkv.bias, (q_HK, k_GK, v_GK)),
        ):
            target.copy_(
                torch.cat([part.repeat_interleave(HEADS // len(part), 0) for part in parts]).flatten(0, 1)
            )
    multi.out.load_state_dict(grouped.out.state_dict())
    torch.testing.assert_close(grouped(x_BTD), multi(x_BTD))


def test_fewer_key_heads_hold_fewer_parameters_and_less_cache() -> None:
    assert [built(n).qkv.out_features for n in (HEADS, 2, 1)] == [
        3 * WIDTH,
        WIDTH + 4 * HEAD_DIM,
        WIDTH + 2 * HEAD_DIM,
    ]


def test_normalised_queries_and_keys_are_the_models_norm() -> None:
    attention, x_BTD = built(HEADS, position="none", norm="rmsnorm_no_gain", qk_norm=True), noise(2, 7, WIDTH)
    before_BTD = attention(x_BTD)
    with torch.no_grad():
        attention.qkv.weight[: 2 * WIDTH] *= 100
        attention.qkv.bias[: 2 * WIDTH] *= 100
    torch.testing.assert_close(attention(x_BTD), before_BTD, atol=1e-3, rtol=1e-3)


def test_a_full_cache_refuses_one_token_more() -> None:
    # torch would silently drop a single token.
    cache = LayerCache(torch.zeros(1, 1, 3, 2, HEAD_DIM))
    cache.append(noise(1, 1, 3, HEAD_DIM), noise(1, 1, 3, HEAD_DIM))
    with pytest.raises(ValueError, match="4 tokens do not fit a cache with room for 3"):
        cache.append(noise(1, 1, 1, HEAD_DIM), noise(1, 1, 1, HEAD_DIM))


def test_keys_and_values_in_different_layouts_are_refused() -> None:
    cache = LayerCache(torch.zeros(1, 3, 3, 2, HEAD_DIM))
    with pytest.raises(TypeCheckError, match="v_BGTK"):
        cache.append(noise(1, 3, 2, HEAD_DIM), noise(1, 2, 3, HEAD_DIM))
