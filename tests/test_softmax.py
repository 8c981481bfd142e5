"""The normaliser in blocks, against dense scores in double precision."""

import pytest
import torch

from Models import softmax
from Models.softmax import log_normalizer


def test_it_is_right_for_scores_far_apart():
    rows = torch.tensor([[100.0], [-100.0], [0.0]], requires_grad=True)
    table = torch.linspace(-10, 10, 5000).unsqueeze(1).requires_grad_()
    found = log_normalizer(rows, table)
    expected = (rows.double() @ table.double().T).logsumexp(dim=1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    for of in (rows, table):
        mine, slow = (
            torch.autograd.grad(z[0], of, retain_graph=True)[0] for z in (found, expected)
        )
        torch.testing.assert_close(mine, slow, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("block", [4, 7, 2048])  # of 11 columns
def test_places_that_are_excluded_do_not_count(block, scale, monkeypatch):
    monkeypatch.setattr(softmax, "BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    rows, table = (
        torch.randn(n, 3, generator=generator, dtype=torch.float64).requires_grad_()
        for n in (5, 11)
    )
    # in any order; of row 1 a whole block, of row 4 all but the last column, of row 2 nothing
    places = [(3, 10), (0, 5), *((1, c) for c in (2, 0, 3, 1)), *((4, c) for c in range(10))]
    excluded = tuple(torch.tensor(places).T)
    found = log_normalizer(rows * scale, table, excluded)
    dense = (rows * scale @ table.T).index_put(excluded, torch.tensor(-torch.inf).double())
    expected = dense.logsumexp(dim=1)
    torch.testing.assert_close(found, expected)
    assert found[4].item() == pytest.approx((rows[4] @ table[10]).item() * scale)
    weights = torch.randn(5, generator=generator, dtype=torch.float64)
    for mine, slow in zip(
        *(torch.autograd.grad(z @ weights, (rows, table)) for z in (found, expected)), strict=True
    ):
        torch.testing.assert_close(mine, slow)
