"""Gram matrices of snapshots: the training data of `GramPredictor` and the fitted baselines, independent of network size.

For each tensor of the network G[a, b] = <w(a) - w(0), w(b) - w(0)> over the N snapshots of a trajectory. Increments and
targets of any window are differences of snapshots, so their inner products are sums of entries of G, and the baselines
need no weights. The parts of a matrix differ between windows (`matrix_parts`), so their inner products are computed per
window (`part_grams`).
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wscore.forecasting.models.matrix_parts import Edges, seen_tensors
from wscore.forecasting.sequences import Windows
from wscore.networks.layout import Layout

TINY = 1e-30
WORST = 5.0  # cap on the error relative to copy-last, to bound gradients
LAYER_SHARE = 0.5
COLUMNS_AT_ONCE = 65_536
NOISE_RANGE = (-5.0, 1.0)  # range of log squared increments of added noise, relative to the window's
MIXING_RANGE = (-4.0, 2.0)  # range of log squared increments of the mixed-in window, relative to the window's
SHORTENED = 0.5  # share of the training windows with a truncated older history


def snapshot_grams(
    weights: Float[np.ndarray, "snapshot weights"], layout: Layout
) -> Float[Tensor, "tensor snapshot snapshot"]:
    """Return the Gram matrices of snapshots relative to the first one, per tensor, in float64."""
    grams = np.zeros((len(layout.tensors), len(weights), len(weights)))
    for number, columns in enumerate(layout.slices().values()):
        for start in range(columns.start, columns.stop, COLUMNS_AT_ONCE):
            block = weights[:, start : min(start + COLUMNS_AT_ONCE, columns.stop)].astype(np.float64)
            block -= block[0].copy()
            grams[number] += block @ block.T
    return torch.from_numpy(grams)


def window_grams(
    grams: Float[Tensor, "tensor snapshot snapshot"], windows: Windows
) -> Float[Tensor, "window tensor vector vector"]:
    """Return the Gram matrices of each window's vectors: increments d_1..d_(c-1), newest first, then y_1..y_K.

    d_i = w(t - i + 1) - w(t - i) and y_k = w(t + k) - w(t), steps of the window's stride; float64.
    """
    length, horizons = windows.history.shape[1], windows.targets.shape[1]
    points = torch.from_numpy(np.concatenate([windows.history, windows.targets], axis=1))  # (W, c+K)
    chosen = grams[:, points[:, :, None], points[:, None, :]].transpose(0, 1)  # (W, L, c+K, c+K)
    differences = _differences(length, horizons)  # (c-1+K, c+K)
    return differences @ chosen @ differences.T


def part_grams(
    weights: Float[np.ndarray, "snapshot weights"], layout: Layout, windows: Windows, increments: int, edges: Edges
) -> Float[Tensor, "window tensor part vector vector"]:
    """Return the Gram matrices of each window's vectors as in `window_grams`, for each part of each tensor.

    The directions that define the parts of a matrix are those of the first `increments` vectors of the window; float64.
    """
    differences = _differences(windows.history.shape[1], windows.targets.shape[1])
    grams = []
    for points in np.concatenate([windows.history, windows.targets], axis=1):
        vectors = differences @ torch.from_numpy(weights[points].astype(np.float64))  # (V, D)
        seen = seen_tensors(lambda block, vectors=vectors: vectors[:, block], layout, increments, edges)
        grams.append(torch.stack([tensor.grams for tensor in seen]))
    return torch.stack(grams)


def gathered(
    grams: Float[Tensor, "window tensor part vector vector"], there: Float[Tensor, "tensor part"]
) -> Float[Tensor, "window tensor part vector vector"]:
    """Return the Gram matrices with non-existing parts of a tensor added to its last part."""
    known_grams = grams * there[..., None, None]
    last = torch.zeros_like(there)
    last[:, -1] = 1
    return known_grams + last[..., None, None] * (grams - known_grams).sum(2, keepdim=True)


def noise_grams(back: Sequence[int], steps: Sequence[int]) -> Float[Tensor, "kind vector vector"]:
    """Return the expected Gram matrices of two kinds of weight noise, in units of the squared increment that they add.

    Vectors as in `window_grams`, of snapshots `back` steps before the last, the oldest first. The first kind is
    independent noise per snapshot, w(t) + e(t): consecutive increments are anticorrelated. The second is a random walk,
    w(t) + e(1) + .. + e(t): increments are uncorrelated.
    """
    times = torch.tensor([*(-step for step in back), *steps], dtype=torch.float64) + max(back)
    differences = _differences(len(back), len(steps))
    single = differences @ differences.T / 2
    summed = differences @ torch.minimum(times[:, None], times[None]) @ differences.T
    return torch.stack([single, summed])


def with_noise(
    grams: Float[Tensor, "window tensor vector vector"],
    noise: Float[Tensor, "kind vector vector"],
    share: float,
    increments: int,
    generator: torch.Generator,
) -> Float[Tensor, "window tensor vector vector"]:
    """Return the Gram matrices of windows with weight noise, each kind in a share of the windows.

    The squared increments of the noise are 0.7% to 270% of those of the window, the same in all of its tensors. Zero
    vectors, such as missing history, stay zero.
    """
    low, high = NOISE_RANGE
    present = _present(grams, increments)  # (W, L)
    there = (grams.diagonal(dim1=-2, dim2=-1) > 0).any(1)[:, None].to(grams.dtype)  # (W, 1, V)
    both = there[..., None] * there[..., None, :]
    for kind in noise.to(grams.dtype):
        draws = torch.rand(2, len(grams), generator=generator)
        size = (low + (high - low) * draws[0]).exp() * (draws[1] < share)
        grams = grams + (size[:, None] * present)[..., None, None] * kind * both
    return grams


def mixed(
    grams: Float[Tensor, "window tensor *part vector vector"],
    known: Float[Tensor, "window horizon"],
    share: float,
    increments: int,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "window tensor *part vector vector"], Float[Tensor, "window horizon"]]:
    """Return windows; in a share of them every tensor is concatenated with another tensor of another window.

    The Gram matrix of two concatenated tensors is the sum of theirs. The squared increments of the second
    part are 2% to 740% of those of the first. A target is known if it is known in both.
    """
    low, high = MIXING_RANGE
    order = torch.randperm(len(grams), generator=generator)
    other = grams[order][:, torch.randint(grams.shape[1], grams.shape[1:2], generator=generator)]
    draws = torch.rand(2, len(grams), generator=generator)
    size = (low + (high - low) * draws[0]).exp() * (draws[1] < share)
    present, added = (_present(g, increments).reshape(*grams.shape[:2], -1).sum(-1) for g in (grams, other))
    ratio = size[:, None] * present / added.clamp_min(TINY)  # (W, L)
    known_in_both = torch.where((size > 0)[:, None], known * known[order], known)
    return grams + ratio.reshape(*ratio.shape, *[1] * (grams.ndim - 2)) * other, known_in_both


def shortened(
    grams: Float[Tensor, "window tensor vector vector"],
    increments: int,
    lagged_snapshots: int,
    generator: torch.Generator,
) -> Float[Tensor, "window tensor vector vector"]:
    """Return windows, half of them with a random part of the `older` vectors after the increments removed.

    This trains the case without older history, at the start of a run, on windows of the whole run.
    """
    draws = torch.rand(2, len(grams), generator=generator)
    reach = torch.where(draws[0] < SHORTENED, (draws[1] * (lagged_snapshots + 1)).floor(), lagged_snapshots)
    lost = (torch.arange(lagged_snapshots) >= reach[:, None]).to(grams.dtype)  # (W, older)
    on = torch.ones(grams.shape[0], grams.shape[-1], dtype=grams.dtype)
    on[:, increments : increments + lagged_snapshots] -= lost
    return grams * on[:, None, :, None] * on[:, None, None, :]


def _present(grams: Tensor, increments: int) -> Tensor:
    return grams.diagonal(dim1=-2, dim2=-1)[..., :increments].mean(-1)


def relative_errors(
    coefficients: Float[Tensor, "window *tensor increment horizon"],
    grams: Float[Tensor, "window *tensor vector vector"],
) -> tuple[Float[Tensor, "window *tensor horizon"], Float[Tensor, "window *tensor horizon"]]:
    """Return squared errors of forecasts sum_i beta_i d_i and of copy-last, per tensor (or part of one) and horizon.

    |y - sum_i beta_i d_i|^2 = <y, y> - 2 sum_i beta_i <d_i, y> + sum_ij beta_i beta_j <d_i, d_j>
    """
    m = coefficients.shape[-2]
    inner, cross = grams[..., :m, :m], grams[..., :m, m:]  # (W, L, m, m), (W, L, m, K)
    copied = grams[..., m:, m:].diagonal(dim1=-2, dim2=-1)  # (W, L, K)
    explained = 2 * (coefficients * cross).sum(-2) - (coefficients * (inner @ coefficients)).sum(-2)
    return copied - explained, copied


def gram_loss(
    coefficients: Float[Tensor, "window present increment horizon"],
    grams: Float[Tensor, "window tensor part vector vector"],
    there: Float[Tensor, "tensor part"],
    known: Float[Tensor, "window horizon"],
) -> dict[str, Float[Tensor, ""]]:
    """Return the `skill_loss` of forecasts sum_i beta_i d_i over the existing parts."""
    every = coefficients.new_zeros(*grams.shape[:3], *coefficients.shape[2:])
    every[:, there.bool()] = coefficients
    error, copied = relative_errors(every, grams)
    return skill_loss(error.sum(2), copied.sum(2), known)


def skill_loss(
    error: Float[Tensor, "window tensor horizon"],
    copied: Float[Tensor, "window tensor horizon"],
    known: Float[Tensor, "window horizon"],
) -> dict[str, Float[Tensor, ""]]:
    """Return `loss` = mean over windows and known horizons of (1 - skill) + 0.5 mean over tensors of (1 - skill).

    1 - skill = error / error of copy-last of the whole network, or of one tensor, each at most 5. `skill` is 1 - the
    mean of the first.
    """
    network = (error.sum(1) / copied.sum(1).clamp_min(TINY)).clamp(max=WORST)  # (W, K)
    tensors = (error / copied.clamp_min(TINY)).clamp(max=WORST).mean(1)  # (W, K)
    each = network + LAYER_SHARE * tensors
    count = known.sum().clamp_min(1)
    return {"loss": (each * known).sum() / count, "skill": 1 - (network * known).sum() / count}


def normalised(
    grams: Float[Tensor, "window *tensor vector vector"], increments: int
) -> Float[Tensor, "window *tensor vector vector"]:
    """Return the Gram matrices in units of the window's mean squared increment, as float32; losses are unchanged."""
    squares = _present(grams, increments).flatten(1).sum(1)  # (W,)
    return (grams / squares.clamp_min(TINY).reshape(-1, *[1] * (grams.ndim - 1))).float()


def _differences(length: int, horizons: int) -> Tensor:
    present = length - 1
    matrix = torch.zeros(present + horizons, length + horizons, dtype=torch.float64)
    for number in range(present):
        matrix[number, present - number], matrix[number, present - number - 1] = 1, -1
    for horizon in range(horizons):
        matrix[present + horizon, length + horizon], matrix[present + horizon, present] = 1, -1
    return matrix
