"""Sparsity of codes: training penalties and reported measures. Pure functions, computed in float32 for any input dtype.

Codes z (..., B, L) are activations of L latents on B samples, zero where a latent is inactive. Every penalty is finite,
with a finite gradient, for codes that are all zero, constant or saturated.
"""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from wscore.errors import TrainingError

Reduction = Literal["mean", "sum"]
SMALLEST_EPSILON = 1.2e-7  # below it 1 - epsilon is 1 in float32, and the logarithm of 0 infinite
SOFTNESS = 0.1  # of `activation_rate`
TINY = torch.finfo(torch.float32).tiny


def l1_sparsity_loss(
    codes: Float[Tensor, "*stack batch latent"],
    *,
    reduction: Reduction = "mean",
    norms: Float[Tensor, "*stack latent"] | None = None,
) -> Float[Tensor, "*stack"]:
    """Return the mean over samples of sum_j n_j |z_j|, or of the mean over latents for `mean`.

    The two differ by a factor L, and so do suitable weights in the loss.

    Args:
        codes: z.
        reduction: over the latents.
        norms: norm n_j of each atom, for dictionaries without unit-norm atoms; 1 if None.

    >>> codes = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    >>> l1_sparsity_loss(codes), l1_sparsity_loss(codes, reduction="sum")
    (tensor(2.), tensor(4.))
    """
    size = codes.float().abs()
    if norms is not None:
        size = size * norms.float()[..., None, :]
    return size.sum(-1).mean(-1) if reduction == "sum" else size.mean((-2, -1))


def activation_rate(
    codes: Float[Tensor, "*stack batch latent"], softness: float = SOFTNESS
) -> Float[Tensor, "*stack latent"]:
    """Return a soft activation frequency of each latent: the mean over samples of z / (z + c), in [0, 1).

    c is `softness` times the mean of the positive codes (1 if there is none) and carries no gradient. Codes far above c
    count as on, zeros as off; unlike the mean activation, the rate is invariant to a common scale of the codes.
    """
    z = codes.float().clamp_min(0)
    with torch.no_grad():
        on = (z > 0).sum((-2, -1), keepdim=True)
        c = torch.where(on > 0, softness * z.sum((-2, -1), keepdim=True) / on.clamp_min(1), 1.0).clamp_min(TINY)
    return (z / (z + c)).mean(-2)


def kl_divergence(
    rate: Float[Tensor, "*stack latent"],
    target: float,
    *,
    epsilon: float = 1e-6,
    reduction: Reduction = "mean",
) -> Float[Tensor, "*stack"]:
    """Return KL(target || rate) of Bernoulli variables, over the latents.

    KL(r || p) = r log(r / p) + (1 - r) log((1 - r) / (1 - p)), with p mapped into [epsilon, 1 - epsilon] so that the
    gradient never vanishes.

    Args:
        rate: p of each latent, a mean over samples.
        target: r.
        epsilon: minimum distance of p from 0 and 1.
        reduction: over the latents.

    Raises:
        TrainingError: if the target is not within (0, 1), epsilon too small for float32, or a rate not within [0, 1].
    """
    _check_target(target, epsilon)
    if not bool(((rate >= 0) & (rate <= 1)).all()):
        raise TrainingError(
            "is not a rate", where="kl_divergence", expected="numbers from 0 to 1", got=f"up to {float(rate.max()):.4g}",
            fix="compute rates from codes with `activation_rate`",
        )  # fmt: skip
    return _kl(rate, target, epsilon, reduction)


def kl_divergence_sparsity_loss(
    codes: Float[Tensor, "*stack batch latent"],
    target_sparsity: float = 0.05,
    epsilon: float = 1e-6,
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, "*stack"]:
    """Return the KL divergence of each latent's `activation_rate` from the target, over the latents.

    Raises:
        TrainingError: if the target is not within (0, 1) or epsilon is too small for float32.

    >>> bool(kl_divergence_sparsity_loss(torch.zeros(4, 3)).isfinite())
    True
    """
    _check_target(target_sparsity, epsilon)
    return _kl(activation_rate(codes), target_sparsity, epsilon, reduction)


def hoyer_sparseness(codes: Float[Tensor, "*stack batch latent"]) -> Float[Tensor, "*stack batch"]:
    """Return (sqrt(L) - |z|_1 / |z|_2) / (sqrt(L) - 1) of each sample: 1 for one active latent, 0 for all equal.

    Hoyer (2004), "Non-negative matrix factorization with sparseness constraints". It is invariant to the scale of a
    sample. An all-zero sample counts as 1 and has no gradient.

    Raises:
        TrainingError: if there are fewer than two latents.

    >>> hoyer_sparseness(torch.tensor([[0.0, 3.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))
    tensor([1., 0.])
    """
    return 1 - _hoyer_excess(codes)


def hoyer_sparsity_loss(codes: Float[Tensor, "*stack batch latent"]) -> Float[Tensor, "*stack"]:
    """Return the mean over samples of 1 - `hoyer_sparseness`: 0 for one active latent, 1 for all equal.

    Raises:
        TrainingError: if there are fewer than two latents.
    """
    return _hoyer_excess(codes).mean(-1)


def l0(codes: Float[Tensor, "*stack batch latent"]) -> Float[Tensor, "*stack"]:
    """Return the mean number of non-zero latents per sample, without gradient.

    >>> l0(torch.tensor([[0.0, 2.0, 1.0], [0.0, 0.0, 5.0]]))
    tensor(1.5000)
    """
    return (codes != 0).sum(-1).float().mean(-1)


def l0_target_loss(count: Float[Tensor, "*stack"], target: float | int | Tensor) -> Float[Tensor, "*stack"]:
    """Return (count / target - 1)^2 for the mean number of active latents, made differentiable by `hard_step`."""
    return (count.float() / target - 1).square()


def hard_step(
    values: Float[Tensor, "*stack batch latent"], threshold: Float[Tensor, "*stack latent"], bandwidth: float
) -> Float[Tensor, "*stack batch latent"]:
    """Return 1 where a value exceeds its latent's threshold, else 0, with a gradient for the threshold.

    The gradient is that of a step smoothed by a rectangle: -1 / bandwidth for values within half a bandwidth of the
    threshold (Rajamanoharan et al. 2024, "Jumping ahead", eq. 11). Values get no gradient.
    """
    result = _HardStep.apply(values, threshold, bandwidth)
    assert isinstance(result, Tensor)
    return result


def jump_relu(
    values: Float[Tensor, "*stack batch latent"], threshold: Float[Tensor, "*stack latent"], bandwidth: float
) -> Float[Tensor, "*stack batch latent"]:
    """Return values that exceed their latent's threshold, else 0.

    The gradient passes through active values; the threshold gets -threshold / bandwidth from values within half a bandwidth
    of it (Rajamanoharan et al. 2024, "Jumping ahead", eq. 12).

    >>> jump_relu(torch.tensor([[0.2, 0.8]]), torch.tensor([0.5, 0.5]), bandwidth=0.1)
    tensor([[0.0000, 0.8000]])
    """
    result = _JumpRelu.apply(values, threshold, bandwidth)
    assert isinstance(result, Tensor)
    return result


class _HardStep(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        above = values - threshold[..., None, :]
        ctx.save_for_backward(above)
        ctx.bandwidth = bandwidth
        return (above > 0).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        (above,) = ctx.saved_tensors
        near = above.abs() < ctx.bandwidth / 2
        return None, -(gradients[0] * near).sum(-2) / ctx.bandwidth, None


class _JumpRelu(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        above = values - threshold[..., None, :]
        ctx.save_for_backward(above, threshold)
        ctx.bandwidth = bandwidth
        return values * (above > 0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        above, threshold = ctx.saved_tensors
        near = above.abs() < ctx.bandwidth / 2
        of_threshold = -threshold * (gradients[0] * near).sum(-2) / ctx.bandwidth
        return gradients[0] * (above > 0), of_threshold, None


def _kl(rate: Tensor, target: float, epsilon: float, reduction: Reduction) -> Tensor:
    p = epsilon + (1 - 2 * epsilon) * rate.float()  # strictly inside (0, 1), without the zero gradient of a clamp
    divergence = target * (math.log(target) - p.log()) + (1 - target) * (math.log1p(-target) - torch.log1p(-p))
    return divergence.sum(-1) if reduction == "sum" else divergence.mean(-1)


def _hoyer_excess(codes: Tensor) -> Tensor:
    """Return (|z|_1 / |z|_2 - 1) / (sqrt(L) - 1) of each sample, 0 for zeros."""
    count = codes.shape[-1]
    if count < 2:
        raise TrainingError("needs two latents or more", where="hoyer", expected=">= 2", got=count)
    z = codes.float()
    largest = z.detach().abs().amax(-1, keepdim=True)
    silent = largest < TINY
    # The measure is scale-invariant: divided by the largest code, |z|_2 lies in [1, sqrt(L)] and its root is safe.
    unit = torch.where(silent, torch.ones_like(z), z / torch.where(silent, torch.ones_like(largest), largest))
    ratio = unit.abs().sum(-1) / unit.square().sum(-1).sqrt()
    return torch.where(silent[..., 0], torch.zeros_like(ratio), (ratio - 1) / (count**0.5 - 1))


def _check_target(target: float, epsilon: float) -> None:
    if not 0 < target < 1:
        raise TrainingError("target is not a rate", where="kl_divergence", expected="within (0, 1)", got=target)
    if epsilon < SMALLEST_EPSILON:
        raise TrainingError(
            "epsilon is too small for float32", where="kl_divergence", expected=f">= {SMALLEST_EPSILON}", got=epsilon
        )
