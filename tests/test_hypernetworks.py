"""Mappings and projections that are an entity's own, against loops over entities."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from Models import hypernetworks
from Models.hypernetworks import PersonalMapping, Projections
from Utils.errors import UserError

N, D_S, D_T = 7, 3, 6
SIZES = [4, 5]


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def mapping(precision: str = "float32") -> PersonalMapping:
    return PersonalMapping(D_S, D_T, torch.Generator().manual_seed(0), precision)


def projections(precision: str = "float32", personal: bool = True) -> Projections:
    return Projections(D_T, SIZES, torch.Generator().manual_seed(0), precision, personal)


class Largest(TorchDispatchMode):
    """Sees the size of the largest tensor that is made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        if isinstance(result, torch.Tensor):
            self.numel = max(self.numel, result.untyped_storage().nbytes() // 4)
        return result


def test_a_mapping_is_made_for_each_entity():
    f = mapping().double().requires_grad_(False)
    context, h_s = draws(N, D_T), draws(N, D_S, seed=1)
    found = f(context, h_s)
    assert f.weight1.shape == (D_T, (D_T + D_T * D_S) // 2)
    for v, h, mapped in zip(context, h_s, found, strict=True):
        hidden = [max(float(v @ f.weight1[:, k] + f.bias1[k]), 0) for k in range(len(f.bias1))]
        for t in range(D_T):
            expected = 0.0
            for s in range(D_S):
                place = s * D_T + t
                weight = sum(z * float(f.weight2[k, place]) for k, z in enumerate(hidden))
                expected += float(h[s]) * (weight + float(f.bias2[place]))
            assert mapped[t].item() == pytest.approx(expected, rel=1e-9)


def test_a_projection_is_made_for_each_entity(monkeypatch):
    """As equations 13 and 14 have it: all weights of Theta, from all of h_T, then the product."""
    monkeypatch.setattr(hypernetworks, "BLOCK", 4)  # of 21 products
    p = projections().double().requires_grad_(False)
    h_t = draws(N, D_T)
    first, second = torch.triu_indices(D_T, D_T)
    P = torch.zeros(D_T, D_T, sum(SIZES), dtype=torch.float64)
    P[first, second] = P[second, first] = p.weight
    found = p(h_t)
    assert [part.shape for part in found] == [(N, 4), (N, 5)]
    found = torch.cat(found, dim=1)
    for e in range(N):
        theta = p.bias.clone()
        for a in range(D_T):
            for c in range(D_T):
                theta[a] += P[a, c] * h_t[e, c]
        torch.testing.assert_close(found[e], h_t[e] @ theta)


@pytest.mark.parametrize("block", [1, 4, 1024])
def test_the_gradient_of_a_projection_is_that_of_finite_differences(block, monkeypatch):
    monkeypatch.setattr(hypernetworks, "BLOCK", block)
    h_t, weight = draws(N, D_T), draws(21, 9, seed=1).requires_grad_()
    product = hypernetworks._Quadratic.apply
    assert torch.autograd.gradcheck(lambda w: product(h_t, w, torch.float64), (weight,))


def test_the_weights_begin_like_those_of_a_linear_layer():
    """Of P, which has the mean of two at each pair of entries, and its own where both are one."""
    p = Projections(50, [30], torch.Generator().manual_seed(0), "float32")
    bound = 50**-0.5
    first, second = torch.triu_indices(50, 50)
    same = first == second
    for values, variance in ((p.weight[same], bound**2 / 3), (p.weight[~same], bound**2 / 6)):
        assert values.abs().max() <= bound
        assert values.var().item() == pytest.approx(variance, rel=0.1)
    assert p.bias.var().item() == pytest.approx(bound**2 / 3, rel=0.1)


def test_one_projection_for_all():
    p = projections(personal=False).double()
    h_t = draws(N, D_T)
    torch.testing.assert_close(torch.cat(p(h_t), dim=1), h_t @ p.bias)
    assert sum(each.numel() for each in p.parameters()) == D_T * sum(SIZES)


def test_no_projection_is_held_for_each_entity():
    n, d = 400, 60
    p = Projections(d, [40, 50], torch.Generator().manual_seed(0), "float32")
    h_t = torch.randn(n, d)
    with Largest() as seen:
        torch.cat(p(h_t), dim=1).square().sum().backward()
    rows = n + -n % hypernetworks.ROWS
    assert 90 * n <= seen.numel <= rows * (hypernetworks.BLOCK + d) < n * d * 90 / 3


@pytest.mark.parametrize("has_bf16", [True, False])
def test_reduced_precision_is_near(has_bf16, monkeypatch):
    monkeypatch.setattr(hypernetworks, "CPU_HAS_BF16", has_bf16)
    context, h_s = draws(N, D_T).float(), draws(N, D_S, seed=1).float()
    for whole, reduced in (
        (mapping()(context, h_s), mapping("bf16")(context, h_s)),
        (torch.cat(projections()(context), 1), torch.cat(projections("bf16")(context), 1)),
    ):
        assert reduced.dtype == torch.float32
        assert 0 < (whole - reduced).norm() < 0.02 * whole.norm()


def test_no_bf16_is_multiplied_where_the_cpu_cannot(monkeypatch):
    monkeypatch.setattr(hypernetworks, "CPU_HAS_BF16", False)
    context, h_s = draws(N, D_T).float(), draws(N, D_S, seed=1).float()
    multiplied = set()

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func._schema.name in ("aten::mm", "aten::addmm", "aten::bmm"):
                multiplied.update(arg.dtype for arg in args if isinstance(arg, torch.Tensor))
            return func(*args, **(kwargs or {}))

    with Seen():
        mapped, projected = mapping("bf16")(context, h_s), projections("bf16")(context)
        (mapped.sum() + torch.cat(projected, 1).square().sum()).backward()
    assert multiplied == {torch.float32}


def test_a_network_beyond_this_machines_memory_is_refused():
    with pytest.raises(UserError, match=r"maps d=9000 to d=9000 takes .* GB or more, .* smaller"):
        PersonalMapping(9000, 9000, torch.Generator(), "float32")
