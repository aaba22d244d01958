"""Refined latents: never worse by their own objective, found again where they were, and the curvature is that of a loop."""

from collections.abc import Callable

import msgspec
import pytest
import torch
from torch import Tensor, nn

from wscore.autoencoder.coding.entropy import EntropyCode
from wscore.autoencoder.coding.refine import (
    Problem,
    RefineConfig,
    curvatures,
    draw_images,
    encode_refined,
    one_pass,
    refine,
    search,
    store,
)
from wscore.autoencoder.coding.uniform import Bits, LatentCode
from wscore.autoencoder.training.behaviour_loss import behaviour_kl, spread
from wscore.networks.architectures import Architecture, build
from wscore.networks.inference import ModuleAnswer, StackedAnswer
from wscore.networks.layout import layout_of

CONFIG = RefineConfig(steps=12, rounds=3, images=40, curvature_images=10, temperature=0.5, rate=1.0, seed=0)
ARCHITECTURE = Architecture(
    family="cnn", input=(1, 8, 8), classes=3, widths=(3, 4), activation="gelu", pooling="avg"
)  # fmt: skip


@pytest.fixture(scope="module")
def problem() -> tuple[Problem, Tensor]:
    """Three networks that lie exactly on the decoder's affine subspace, and their latents."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = build(ARCHITECTURE)
    layout = layout_of(network.state_dict())
    mean = torch.from_numpy(layout.flatten(network.state_dict()))
    basis = torch.randn(5, layout.size, generator=generator) * 0.2
    decode: Callable[[Tensor], Tensor] = lambda latents: mean + latents @ basis  # noqa: E731
    truth = torch.randn(3, 5, generator=generator)
    images = torch.randn(40, 1, 8, 8, generator=generator)
    return Problem(decode, StackedAnswer(ARCHITECTURE, layout), decode(truth), images), truth


def objective(problem: Problem, latents: Tensor, config: RefineConfig) -> Tensor:
    images = problem.images[None]
    with torch.no_grad():
        expected, found = (problem.answer(w, images) for w in (problem.original, problem.decode(latents)))
    return behaviour_kl(expected, found, config.temperature)


@pytest.mark.parametrize("curvature_images", [0, 10])
def test_refinement_never_worsens_its_own_objective(problem: tuple[Problem, Tensor], curvature_images: int) -> None:
    config = msgspec.structs.replace(CONFIG, curvature_images=curvature_images)
    start = torch.zeros(3, 5)
    for steps in (1, 4, 12):
        found = refine(problem[0], start, msgspec.structs.replace(config, steps=steps))
        assert (objective(problem[0], found, config) <= objective(problem[0], start, config) + 1e-6).all()


def test_networks_within_reach_of_the_decoder_are_found(problem: tuple[Problem, Tensor]) -> None:
    start = torch.zeros(3, 5)
    found = refine(problem[0], start, msgspec.structs.replace(CONFIG, steps=60))
    assert (objective(problem[0], found, CONFIG) < 1e-3 * objective(problem[0], start, CONFIG)).all()


def test_no_steps_change_nothing(problem: tuple[Problem, Tensor]) -> None:
    start = torch.ones(3, 5)
    assert refine(problem[0], start, msgspec.structs.replace(CONFIG, steps=0)) is start


def test_the_same_call_gives_the_same_bits(problem: tuple[Problem, Tensor]) -> None:
    first, second = (refine(problem[0], torch.zeros(3, 5), CONFIG) for _ in range(2))
    assert torch.equal(first, second)


def test_the_curvature_is_the_gauss_newton_matrix(problem: tuple[Problem, Tensor]) -> None:
    """At the truth the divergence is zero, so that its whole second derivative is the Gauss-Newton matrix."""
    one = problem[0]._replace(original=problem[0].original[:1], images=problem[0].images[:10])
    latents = problem[1][:1]
    with torch.no_grad():
        expected = one.answer(one.original, one.images[None])
    found = curvatures(one, expected, latents, CONFIG)[0]
    scale = (CONFIG.temperature * spread(expected))[:, None, None]

    def logits(latent: Tensor) -> Tensor:
        return (one.answer(one.decode(latent[None]), one.images[None]) / scale)[0]

    jacobian = torch.autograd.functional.jacobian(logits, latents[0])  # (I, C, K)
    shares = logits(latents[0]).softmax(-1).detach()
    reference = torch.zeros(5, 5)
    for image in range(10):
        inner = shares[image].diag() - shares[image][:, None] * shares[image][None]
        reference += jacobian[image].T @ inner @ jacobian[image] / 10
    assert torch.allclose(found, reference, rtol=1e-2, atol=1e-4 * reference.abs().max().item())


def test_any_module_can_be_run_like_the_zoo() -> None:
    torch.manual_seed(0)
    network = build(ARCHITECTURE)
    layout = layout_of(network.state_dict())
    weights = torch.randn(2, layout.size) * 0.1
    images = torch.rand(2, 6, 1, 8, 8)
    ours, theirs = StackedAnswer(ARCHITECTURE, layout), ModuleAnswer(network, layout)
    assert torch.allclose(ours(weights, images), theirs(weights, images), atol=1e-5)
    assert torch.allclose(ours(weights, images[:1]), theirs(weights, images[:1]), atol=1e-5)
    assert isinstance(network, nn.Module)


@pytest.mark.parametrize("bits", [4, 8])
def test_stored_latents_answer_no_worse_than_plainly_rounded_ones(problem: tuple[Problem, Tensor], bits: Bits) -> None:
    code = LatentCode.fit(problem[1], bits)
    codes = store(problem[0], problem[1], code, CONFIG, torch.zeros(1, dtype=torch.int64))
    found, plain = code.restore(codes), code.rounded(problem[1])
    goal = lambda latents: objective(problem[0], latents, CONFIG)  # noqa: E731
    assert (goal(found) <= goal(plain) + 1e-6).all()
    assert torch.equal(code.restore(codes), found)  # nothing but the integers and the scale is needed


def test_images_are_a_fixed_draw() -> None:
    images = torch.arange(50.0).view(50, 1, 1, 1)
    first, second = draw_images(images, CONFIG), draw_images(images, CONFIG)
    assert torch.equal(first, second)
    assert len(first.unique()) == 40


KINDS = torch.zeros(1, dtype=torch.int64)


@pytest.fixture(scope="module")
def wide() -> tuple[Problem, Tensor, EntropyCode]:
    """Networks kept in many more numbers than their answers depend on, in very little room, far from their centre."""
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(1)
    network = build(ARCHITECTURE)
    layout = layout_of(network.state_dict())
    mean, size = torch.from_numpy(layout.flatten(network.state_dict())), layout.size
    basis = 0.2 * torch.linalg.qr(torch.randn(size, size, generator=generator))[0]
    decode: Callable[[Tensor], Tensor] = lambda latents: mean + latents @ basis  # noqa: E731
    log_stds = 2.0 ** torch.linspace(1, -4, size)
    training = log_stds * torch.randn(60, size, generator=generator)
    code = EntropyCode.fit(training, torch.zeros(60, dtype=torch.int64), {}, 1.5)
    truth = 2 * log_stds * torch.randn(3, size, generator=generator)
    images = torch.randn(40, 1, 8, 8, generator=generator)
    return Problem(decode, StackedAnswer(ARCHITECTURE, layout), decode(truth), images), truth, code


def test_a_search_that_counts_bits_answers_better_in_the_same_bytes_and_never_worse(
    wide: tuple[Problem, Tensor, EntropyCode],
) -> None:
    problem, truth, code = wide
    values = []
    for row in range(len(truth)):
        one, start = problem.alone(row), truth[row : row + 1]
        first = one_pass(one, start, code, CONFIG, KINDS)
        plain = float(objective(one, code.rounded(start, KINDS), CONFIG))
        assert first.value <= plain + 1e-6
        found = search(one, first, code, CONFIG, KINDS)
        assert found.value <= first.value
        assert found.value == pytest.approx(float(objective(one, found.latents, CONFIG)), abs=1e-5)
        payloads = code.pack(found.codes)
        assert [len(payload) for payload in payloads] == [round(4 * code.floats())]
        assert torch.equal(code.restore(code.unpack(payloads, KINDS)), found.latents)
        values.append((plain, first.value, found.value))
    plain, rounded, searched = torch.tensor(values).mean(0).tolist()
    assert searched < 0.8 * rounded < 0.8 * plain


def test_networks_are_encoded_each_on_its_own_and_the_same_each_time(wide: tuple[Problem, Tensor, EntropyCode]) -> None:
    problem, truth, code = wide
    both = encode_refined(problem, truth[:2], code, CONFIG, KINDS)
    assert torch.equal(both, encode_refined(problem, truth[:2], code, CONFIG, KINDS))
    assert torch.allclose(both[1:], encode_refined(problem.alone(1), truth[1:2], code, CONFIG, KINDS), atol=1e-4)
    plain = msgspec.structs.replace(CONFIG, rate=0.0)
    assert not torch.equal(both, encode_refined(problem, truth[:2], code, plain, KINDS))
    assert torch.equal(encode_refined(problem, truth, None, plain, KINDS), refine(problem, truth, plain))


def test_the_curvature_of_many_classes_is_right_on_average() -> None:
    from wscore.autoencoder.coding.refine import _mixtures

    assert torch.equal(_mixtures(2, 3, 0)[:, 0], torch.eye(3))
    drawn = _mixtures(4000, 10, 0)  # (M, I, C)
    mean = torch.einsum("mic,mid->cd", drawn, drawn) / 4000
    assert torch.allclose(mean, torch.eye(10), atol=0.06)
