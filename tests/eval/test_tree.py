import torch

from gptlab.eval import tree

PAIRS = [([1, 2, 3], [4, 5, 6]), ([1, 2, 3], [7]), ([1, 2, 3], [8, 9]), ([2], [3, 4])]


def test_pairs_that_stand_together_share_a_row():
    branching = tree.rows([*PAIRS, PAIRS[0]], branching=True)
    assert [row.pairs for row in branching] == [[0, 1, 2], [3], [4]]
    assert [row.length for row in branching] == [3 + 2 + 0 + 1, 2, 5]
    assert [row.pairs for row in tree.rows(PAIRS, branching=False)] == [[0], [1], [2], [3]]


def test_a_row_of_many_endings_is_bounded_but_a_single_ending_is_not():
    many = [([1, 2, 3], [4] * 100)] * 20 + [([1, 2, 3], [5] * 2000)] * 2
    laid = tree.rows(many, branching=True)
    assert [len(row.endings) for row in laid] == [5, 5, 5, 5, 1, 1]
    assert [pair for row in laid for pair in row.pairs] == list(range(22))


def test_a_batch_by_hand():
    batch = tree.batch(tree.rows(PAIRS, branching=True))
    assert batch.ids_BT.tolist() == [[1, 2, 3, 4, 5, 8], [2, 3, 0, 0, 0, 0]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 3, 4, 3], [0, 1, 0, 0, 0, 0]]
    assert batch.parts_BT.tolist() == [[0, 0, 0, 1, 1, 3], [0, 1, -1, -1, -1, -1]]
    assert batch.branching
    assert list(
        zip(batch.token_indices_N.tolist(), batch.targets_N.tolist(), batch.pairs_N.tolist(), strict=True)
    ) == [
        *((2, 4, 0), (2, 7, 1), (2, 8, 2), (3, 5, 0), (4, 6, 0), (5, 9, 2)),
        *((6, 3, 3), (7, 4, 3)),
    ]
    assert tree.visible(batch.positions_BT, batch.parts_BT)[0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 0, 0, 1],
    ]


def test_every_token_sees_itself_and_no_text_sees_padding():
    batch = tree.batch(tree.rows(PAIRS, branching=True))
    seen = tree.visible(batch.positions_BT, batch.parts_BT)
    assert bool(torch.diagonal(seen, dim1=1, dim2=2).all())
    assert not seen[1, :2, 2:].any()


def test_cut_leaves_what_a_model_reads():
    pair = ([1, 2, 3, 4], [5, 6, 7])
    assert tree.cut(pair, 6) == pair
    assert (tree.cut(pair, 5), tree.excess(pair, 5)) == (([2, 3, 4], [5, 6, 7]), 1)
    assert (tree.cut(pair, 3), tree.excess(pair, 3)) == (([4], [5, 6, 7]), 3)
    # Of an ending longer than the context, the end is scored.
    assert (tree.cut(pair, 2), tree.excess(pair, 2)) == (([5], [6, 7]), 4)


def test_batches_are_bounded_and_hold_every_row_once():
    rows = tree.rows([([0] * (1 + n % 7), [1] * (1 + n % 5)) for n in range(40)], branching=False)
    groups = list(tree.batches(rows, 24))
    assert sorted(pair for rows in groups for row in rows for pair in row.pairs) == list(range(40))
    assert all(len(rows) * max(row.length for row in rows) <= 24 for rows in groups)
    assert groups[0][0].length == max(row.length for row in rows)
