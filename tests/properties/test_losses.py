"""Losses equal a loop written from their formulas; padding and the order of the networks change nothing."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wscore.autoencoder.training.contrastive_loss import nt_xent
from wscore.autoencoder.training.reconstruction_loss import (
    RECONSTRUCTION,
    combined,
    network_cosine,
    network_mae,
    network_mse,
)

PER_NETWORK = {"mse": network_mse, "mae": network_mae, "cosine": network_cosine}
LOSS = st.sampled_from(sorted(RECONSTRUCTION))
SHAPE = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6))
SEED = st.integers(0, 10_000)
QUICK = settings(max_examples=40, deadline=None)


def draw(shape, seed, share=0.7):
    generator = torch.Generator().manual_seed(seed)
    prediction, target = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return prediction, target, torch.rand(shape, generator=generator) < share


def loop_reference(name, prediction, target, mask):
    """The loss as a loop over networks and their weights, in Python numbers."""
    losses = []
    for p, t, m in zip(prediction, target, mask, strict=True):
        pairs = [
            (a, b) for a, b, valid in zip(p.flatten().tolist(), t.flatten().tolist(), m.flatten(), strict=True) if valid
        ]
        if not pairs:
            continue
        if name == "mse":
            losses.append(sum((a - b) ** 2 for a, b in pairs) / len(pairs))
        elif name == "mae":
            losses.append(sum(abs(a - b) for a, b in pairs) / len(pairs))
        else:
            lengths = math.hypot(*(a for a, _ in pairs)) * math.hypot(*(b for _, b in pairs))
            losses.append(1 - sum(a * b for a, b in pairs) / lengths)
    return sum(losses) / len(losses) if losses else 0.0


def loop_nt_xent(first, second, temperature):
    views = [*first.tolist(), *second.tolist()]
    cosine = lambda a, b: sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))  # noqa: E731
    losses = []
    for i, view in enumerate(views):
        partner = views[(i + len(first)) % len(views)]
        others = sum(math.exp(cosine(view, other) / temperature) for k, other in enumerate(views) if k != i)
        losses.append(-math.log(math.exp(cosine(view, partner) / temperature) / others))
    return sum(losses) / len(losses)


@QUICK
@given(name=LOSS, shape=SHAPE, seed=SEED)
def test_a_loss_equals_its_loop(name, shape, seed):
    drawn = draw(shape, seed)
    assert math.isclose(RECONSTRUCTION[name](*drawn).item(), loop_reference(name, *drawn), abs_tol=1e-9)


@QUICK
@given(
    name=LOSS, shape=SHAPE, seed=SEED, tokens=st.integers(0, 3), entries=st.integers(0, 3), networks=st.integers(0, 2)
)
def test_padding_never_changes_a_loss(name, shape, seed, tokens, entries, networks):
    prediction, target, mask = draw(shape, seed)
    pad = (0, entries, 0, tokens, 0, networks)
    larger = [torch.nn.functional.pad(part, pad, value=math.nan) for part in (prediction, target)]
    masked = torch.nn.functional.pad(mask, pad)
    loss = RECONSTRUCTION[name](prediction, target, mask)
    assert math.isclose(RECONSTRUCTION[name](*larger, masked).item(), loss.item(), rel_tol=1e-12, abs_tol=1e-12)


@QUICK
@given(name=LOSS, shape=SHAPE, seed=SEED)
def test_permuting_the_batch_permutes_the_losses(name, shape, seed):
    drawn = draw(shape, seed)
    order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(seed))
    losses = PER_NETWORK[name](*drawn)
    torch.testing.assert_close(
        PER_NETWORK[name](*(part[order] for part in drawn)), losses[order], rtol=1e-12, atol=1e-12
    )


@QUICK
@given(shape=SHAPE, seed=SEED, weights=st.fixed_dictionaries({name: st.floats(0.1, 2) for name in RECONSTRUCTION}))
def test_combined_is_the_weighted_sum(shape, seed, weights):
    drawn = draw(shape, seed)
    expected = sum(weight * RECONSTRUCTION[name](*drawn).item() for name, weight in weights.items())
    assert math.isclose(combined(*drawn, weights=weights).item(), expected, abs_tol=1e-9)


@QUICK
@given(networks=st.integers(2, 7), latent=st.integers(1, 5), seed=SEED, temperature=st.floats(0.05, 2))
def test_nt_xent_equals_its_loop_at_any_batch_size(networks, latent, seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(networks, latent, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = loop_nt_xent(first, second, temperature)
    assert math.isclose(nt_xent(first, second, temperature).item(), expected, rel_tol=1e-9, abs_tol=1e-9)


@QUICK
@given(networks=st.integers(2, 7), latent=st.integers(1, 5), seed=SEED)
def test_nt_xent_knows_neither_order_nor_length_nor_which_view_is_first(networks, latent, seed):
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(networks, latent, generator=generator, dtype=torch.float64) for _ in range(2))
    lengths = torch.rand(networks, 1, generator=generator, dtype=torch.float64) + 0.5
    order = torch.randperm(networks, generator=generator)
    loss = nt_xent(first, second, 0.3).item()
    for views in ((first[order], second[order]), (second, first), (lengths * first, second)):
        assert math.isclose(nt_xent(*views, 0.3).item(), loss, rel_tol=1e-9, abs_tol=1e-9)
