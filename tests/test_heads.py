"""Experts, their selection, and the temperature."""

import pytest
import torch
from scipy.stats import chisquare
from torch import nn

from Models.heads import NEGLIGIBLE, Experts, Selector, gumbel_softmax, temperature


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def separate(experts: Experts) -> list[nn.Module]:
    """Return each expert as a small network of its own."""
    networks = []
    for layers in zip(*(p.data for p in experts.parameters()), strict=True):
        weights = dict(zip(dict(experts.named_parameters()), layers, strict=True))
        first = nn.Linear(*weights["weight1"].shape)
        second = nn.Linear(*weights["weight2"].shape)
        for layer, n in ((first, 1), (second, 2)):
            layer.weight.data = weights[f"weight{n}"].T
            layer.bias.data = weights[f"bias{n}"]
        networks.append(nn.Sequential(first, nn.ReLU(), second))
    return networks


@pytest.mark.parametrize("one_hot", [False, True])
def test_stacked_experts_are_separate_small_networks(one_hot):
    experts = Experts(6, 3, 7, generator()).double()
    x = torch.randn(11, 3, generator=generator(1)).double()
    weights = torch.randn(11, 6, generator=generator(2)).double().softmax(dim=1)
    if one_hot:
        weights = nn.functional.one_hot(weights.argmax(dim=1), 6).double()
    outputs = torch.stack([network(x) for network in separate(experts)], dim=1)
    expected = (outputs * weights.unsqueeze(2)).sum(dim=1)
    torch.testing.assert_close(experts(x, weights), expected)


@pytest.mark.parametrize("tau", [0.3, 0.02, 1e-3, 1e-10])
def test_computing_only_active_experts_agrees_in_loss_and_every_gradient(tau):
    """In float32, as in training: what is left out is below its rounding."""
    experts, selector = Experts(12, 5, 9, generator()), Selector(12, 9, generator())
    x = torch.randn(200, 5, generator=generator(1), requires_grad=True)
    h_t = torch.randn(200, 9, generator=generator(2))
    parameters = [x, *experts.parameters(), *selector.parameters()]
    found = []
    for mix in ("all", "active"):
        weights = gumbel_softmax(selector(h_t), tau, generator(3))
        active = weights > NEGLIGIBLE
        assert active.any(dim=1).all()
        if mix == "all":
            outputs = experts._mix_all(x, weights)
        else:
            outputs = experts._mix_active(x, weights, active)
        loss = (h_t - outputs).square().sum()
        found.append((loss, torch.autograd.grad(loss, parameters)))
    torch.testing.assert_close(found[0][0], found[1][0])
    for dense, sparse in zip(found[0][1], found[1][1], strict=True):
        # The selector's gradient is divided by tau, so that its own rounding is.
        torch.testing.assert_close(dense, sparse, rtol=1e-4, atol=1e-5 * float(dense.abs().max()))
    assert active.sum() < active.numel()  # so that something was left out


def test_the_cheaper_way_is_taken(monkeypatch):
    experts = Experts(6, 3, 7, generator())
    x, soft = torch.zeros(4, 3), torch.full((4, 6), 1 / 6)
    monkeypatch.setattr(experts, "_mix_all", lambda *_: "all")
    monkeypatch.setattr(experts, "_mix_active", lambda *_: "active")
    assert experts(x, soft) == "all"
    assert experts(x, nn.functional.one_hot(torch.arange(4), 6).float()) == "active"


def test_sizes_are_the_papers():
    # DE-RRD's published run, 20 -> 110 -> 200 and M = 30: 1,470,600 and 12,060 for two sides.
    experts, selector = Experts(30, 20, 200, generator()), Selector(30, 200, generator())
    assert 2 * sum(p.numel() for p in experts.parameters()) == 1_470_600
    assert 2 * sum(p.numel() for p in selector.parameters()) == 12_060
    assert Experts(2, 20, 20, generator()).weight1.shape == (2, 20, 10)
    assert Experts(2, 1, 1, generator()).weight1.shape == (2, 1, 1)


def test_first_weights_have_the_range_of_linear_layers():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    experts = Experts(30, 20, 200, generator())
    for weight, fan_in in ((experts.weight1.detach(), 20), (experts.weight2.detach(), 110)):
        assert weight.abs().max() <= fan_in**-0.5 + 1e-7
        assert weight.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.02)
    assert torch.equal(torch.random.get_rng_state(), before)  # global state plays no part
    assert torch.equal(experts.weight1, Experts(30, 20, 200, generator()).weight1)
    assert not torch.equal(experts.weight1, Experts(30, 20, 200, generator(1)).weight1)


def test_the_selection_network_sees_the_teacher_and_gives_probabilities():
    selector = Selector(4, 9, generator())
    found = selector(torch.randn(5, 9, generator=generator(1)))
    assert found.shape == (5, 4)
    torch.testing.assert_close(found.detach().sum(dim=1), torch.ones(5))


def test_the_selection_becomes_one_hot_as_the_temperature_falls():
    alpha = torch.randn(300, 8, generator=generator()).softmax(dim=1)
    draws = [gumbel_softmax(alpha, tau, generator(1)) for tau in (10.0, 1.0, 0.1, 1e-3, 1e-10)]
    for draw in draws:
        torch.testing.assert_close(draw.sum(dim=1), torch.ones(300))
        assert torch.equal(draw.argmax(dim=1), draws[0].argmax(dim=1))  # the same noise
    largest = [draw.max(dim=1).values.mean().item() for draw in draws]
    assert largest == sorted(largest)
    assert largest[0] < 0.2
    assert torch.equal(draws[-1], nn.functional.one_hot(draws[0].argmax(dim=1), 8).float())


def test_experts_are_drawn_with_their_probability():
    alpha = torch.tensor([0.5, 0.3, 0.15, 0.04, 0.01], dtype=torch.float64)
    draws = gumbel_softmax(alpha.expand(20_000, -1), 1e-3, generator()).argmax(dim=1)
    counts = torch.bincount(draws, minlength=5).double()
    assert chisquare(counts.numpy(), (alpha * 20_000).numpy()).pvalue > 1e-3


def test_a_certain_selection_stays_finite():
    alpha = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    draw = gumbel_softmax(alpha, 1e-10, generator())
    draw[0, 0].backward()
    assert draw.isfinite().all()
    assert alpha.grad.isfinite().all()


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 1.0), (1, 10**-0.01), (500, 1e-5), (1000, 1e-10), (10**6, 1e-10)]
)
def test_the_temperature_falls_from_tau_0_to_tau_p(epoch, expected):
    assert temperature(epoch, 1.0, 1e-10, 1000) == pytest.approx(expected)
    assert temperature(epoch, 5.0, 5e-10, 1000) == pytest.approx(5 * expected)
