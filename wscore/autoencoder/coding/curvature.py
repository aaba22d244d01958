"""Rounding by a network's own curvature: numbers that follow make up for the errors of those before.

OBS (Hassibi and Stork 1993), as GPTQ does it (Frantar et al. 2023): with G the Gauss-Newton matrix of the divergence of softmax
outputs and G + damping = F F^T, F upper triangular, errors e cost |F^T e|^2, and number j goes next to where that is lowest given
the errors of those before.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wscore.autoencoder.training.behaviour_loss import spread

MOST = 4096  # weights of the largest network whose matrix is held
STRIPES = 6  # in which half of a symmetric matrix is computed
BLOCK = 64  # numbers that are rounded before their errors are passed on


def curvatures(
    run: Callable[[Tensor, Tensor], Tensor],
    points: Float[Tensor, "n weights"],
    images: Float[Tensor, "m *input"],
    temperatures: Sequence[float],
) -> Float[Tensor, "n t weights weights"]:
    """Return the Gauss-Newton matrices of networks by their numbers, each with a mean diagonal of 1.

    Args:
        run: logits (m, 1, C) of networks (m, D), each on an image of its own (m, 1, ...).
        points: the networks.
        images: on which they are run.
        temperatures: of the softmax, in spreads of the logits.
    """
    return torch.stack([_curvatures(run, point, images, temperatures) for point in points])


def _curvatures(
    run: Callable[[Tensor, Tensor], Tensor], point: Tensor, images: Tensor, temperatures: Sequence[float]
) -> Float[Tensor, "t weights weights"]:
    copies = point.expand(len(images), -1).clone().requires_grad_(True)
    with torch.enable_grad():
        logits = run(copies, images[:, None])[:, 0]  # (m, C)
        classes = logits.shape[1]
        sums = (logits[:, 1:] - logits[:, :1]).sum(0)  # the softmax does not notice what all classes have in common
        rows = [torch.autograd.grad(each, copies, retain_graph=c + 2 < classes)[0] for c, each in enumerate(sums)]
    logits, jacobian = logits.detach(), torch.nan_to_num(torch.stack([torch.zeros_like(copies), *rows], 1))  # (m, C, D)
    matrices = []
    for temperature in temperatures:
        shares = (logits / (temperature * spread(logits[None]))).softmax(-1)
        centred = jacobian - (shares[:, None] @ jacobian)
        matrix = squared((centred * shares.sqrt()[:, :, None]).flatten(0, 1))
        matrices.append(matrix / matrix.diagonal().mean().clamp_min(1e-30))
    return torch.stack(matrices)


def squared(rows: Float[Tensor, "m weights"]) -> Float[Tensor, "weights weights"]:
    """Return rows^T rows; blocks below the diagonal are copied."""
    matrix = rows.new_empty(rows.shape[1], rows.shape[1])
    width = -(-rows.shape[1] // STRIPES) or 1
    for start in range(0, rows.shape[1], width):
        stripe = slice(start, start + width)
        matrix[stripe, start:] = rows[:, stripe].mT @ rows[:, start:]
        matrix[start:, stripe] = matrix[stripe, start:].mT.clone()
    return matrix


def factors(matrices: Float[Tensor, "n weights weights"], damping: float) -> Float[Tensor, "n weights weights"]:
    """Return the upper triangular factors of matrices with `damping` added to their diagonals."""
    damped = matrices.flip(1, 2)
    damped.diagonal(dim1=1, dim2=2).add_(damping)
    return torch.linalg.cholesky(damped).flip(1, 2)


def round_in_turn(
    targets: Float[Tensor, "n k weights"],
    factors: Float[Tensor, "u weights weights"],
    bounds: Float[Tensor, "levels n k weights"],
    places: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, "n k weights"]:
    """Return whole numbers; number j is target_j - sum_i F_ij e_i / F_jj rounded, with the errors e_i of those before.

    Numbers follow one another, so that operations are many and small: NumPy's are several times faster there than torch's.

    Args:
        targets: numbers that are rounded, several times for each network.
        factors: F of each of the networks that differ.
        bounds: share of the way from a magnitude to the next from which on the next is taken: for 0, 1 and so on, the last for
            all beyond.
        places: of the factors of each network; None if each has its own.
    """
    places = torch.arange(len(targets)) if places is None else places
    members = [(places == factor).nonzero()[:, 0] for factor in range(len(factors))]
    aims = targets.movedim(-1, 0).contiguous()  # (D, n, k)
    thresholds = bounds.movedim(-1, 0).flatten(2).contiguous().numpy()  # (D, levels, n k)
    pull = torch.zeros_like(targets)
    inverse = (1 / factors.diagonal(dim1=1, dim2=2)[places]).mT[..., None].contiguous().numpy()  # (D, n, 1)
    numbers = np.zeros(aims.shape, np.float32)
    for start in range(0, len(aims), BLOCK):
        block = slice(start, start + BLOCK)
        inner = factors[:, block, block][places].movedim(0, -1)[..., None].contiguous().numpy()  # (B, B, n, 1)
        here = pull[..., block].movedim(-1, 0).contiguous().numpy()
        exact = aims[block].numpy()
        errors = np.empty_like(here)
        for place in range(len(here)):
            wanted = exact[place] - here[place] * inverse[start + place]
            numbers[start + place] = _rounded(wanted, thresholds[start + place])
            errors[place] = numbers[start + place] - exact[place]
            here[place + 1 :] += errors[place] * inner[place, place + 1 :]
        passed = torch.from_numpy(errors).movedim(0, -1)  # (n, k, B)
        for factor, rows in zip(factors[:, block, start + BLOCK :], members, strict=True):
            pull[rows, :, start + BLOCK :] += passed[rows] @ factor
    return torch.from_numpy(numbers).movedim(0, -1)


def _rounded(wanted: Float[np.ndarray, "n k"], bounds: Float[np.ndarray, "levels nk"]) -> Float[np.ndarray, "n k"]:
    size = np.abs(wanted)
    lower = np.floor(size)
    levels = np.minimum(lower, len(bounds) - 1).astype(np.intp).ravel()
    bound = (
        bounds[levels, np.arange(levels.size)].reshape(size.shape) if len(bounds) > 1 else bounds.reshape(size.shape)
    )
    lower += size - lower >= bound
    return np.copysign(lower, wanted)
