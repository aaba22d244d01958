"""Batched training of many networks of one architecture, each with its own data, batch order, optimizer and rates."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wscore.networks.architectures import Architecture, Classifier, build
from wscore.networks.images import Images
from wscore.networks.layout import Layout, layout_of
from wscore.networks.stacked import mixed_skeleton
from wscore.networks.stacked import run as run_stacked
from wscore.zoo.sampling import RunPlan, checkpoint_steps

BETAS = (0.9, 0.999)
EPS = 1e-8
INITS = {
    "kaiming": nn.init.kaiming_normal_, "xavier": nn.init.xavier_uniform_, "orthogonal": nn.init.orthogonal_,
}  # fmt: skip
BLOCK = 64  # steps for which batches are drawn at once


class Batch(NamedTuple):
    """One batch of each network.

    Attributes:
        x: images (active, batch, channel, height, width).
        y: labels (active, batch).
        keep: dropout masks (active, batch, feature), if any network has dropout.
    """

    x: Tensor
    y: Tensor
    keep: Tensor | None


def train_group(
    runs: Sequence[RunPlan], images: Images, checkpoints: int, device: str = "cpu"
) -> Float[Tensor, "runs checkpoints weights"]:
    """Return the flat weights of every run at each of its checkpoints; missing checkpoints of short runs are NaN.

    The runs share layout and batch size and are sorted by decreasing number of steps, so that the runs still in training
    are a leading slice of the weight matrix, and nothing is computed for finished ones. The result of a run does not
    depend on the other runs in its group. Random numbers are drawn on the CPU, so that they are the same on every device.
    """
    layout = layout_of(build(runs[0].architecture).state_dict())
    weights = torch.stack([initial_weights(run, layout) for run in runs]).to(device)  # (M, D)
    optimizer = StackedOptimizer(runs, layout, device)
    x_train = images.x_train.to(device)
    streams = [BatchStream(run, images.y_train) for run in runs]
    labels = torch.stack([own_labels(run, images.y_train, images.classes) for run in runs]).to(device)  # (M, N)
    recorded = weights.new_full((len(runs), checkpoints, layout.size), torch.nan)
    due = _due(runs, checkpoints)
    for step, (index, keep) in enumerate(_batches(runs, streams, device), start=1):
        active = weights[: len(index)]
        x = _augmented(x_train[index], streams[: len(index)])
        batch = Batch(x, labels[: len(index)].gather(1, index), keep)
        optimizer.step(active, _gradient(runs[: len(index)], layout, active, batch))
        for place, checkpoint in due.get(step, ()):
            recorded[place, checkpoint] = weights[place]
    return recorded


def initial_weights(run: RunPlan, layout: Layout) -> Float[Tensor, " weights"]:
    """Return the initial weights under the run's seed, with weight matrices and kernels scaled by `init_scale`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed_init)
        state = build(run.architecture).state_dict()
        if run.variety is not None and run.variety.init != "default":
            for value in state.values():
                if value.ndim > 1:
                    INITS[run.variety.init](value)
    for name, value in state.items():
        if value.ndim > 1:
            state[name] = value * run.init_scale
    return torch.from_numpy(layout.flatten(state))


def own_images(run: RunPlan, labels: Int[Tensor, " images"]) -> np.ndarray:
    """Return the indices of a run's training images, given the labels of all."""
    order = np.random.default_rng([run.seed_data, 0]).permutation(len(labels))
    if run.variety is not None:
        seen = order[np.isin(labels.numpy()[order], run.variety.classes)]
        order = seen[: max(1, round(run.train_size * len(seen) / len(labels)))]
    return np.sort(order[: run.train_size])


def own_labels(run: RunPlan, labels: Int[Tensor, " images"], classes: int) -> Int[Tensor, " images"]:
    """Return the training labels of a run: some or all replaced by random ones among its classes."""
    if run.variety is None or run.variety.label_noise == 0:
        return labels
    rng = np.random.default_rng([run.seed_data, 3])
    seen = np.array(run.variety.classes or range(classes))
    random = seen[rng.integers(len(seen), size=len(labels))]
    wrong = rng.random(len(labels)) < run.variety.label_noise
    return torch.from_numpy(np.where(wrong, random, labels.numpy()))


class BatchStream:
    """Batches, dropout masks and augmentation of one run, drawn in order from its data seed."""

    def __init__(self, run: RunPlan, labels: Tensor) -> None:
        self.run = run
        self.images = own_images(run, labels)
        self.changes = np.random.default_rng([run.seed_data, 4])
        self.order = np.random.default_rng([run.seed_data, 1])
        self.noise = np.random.default_rng([run.seed_data, 2])
        self.left = np.empty((0, run.batch_size), dtype=np.int64)

    def indices(self, steps: int) -> np.ndarray:
        """Return the image indices of the next steps, (steps, batch)."""
        blocks = [self.left]
        while sum(map(len, blocks)) < steps:
            length = self.run.steps_per_epoch * self.run.batch_size
            epoch = np.resize(self.order.permutation(self.images), length)
            blocks.append(epoch.reshape(-1, self.run.batch_size))
        drawn = np.concatenate(blocks)
        self.left = drawn[steps:]
        return drawn[:steps]

    @property
    def augmentation(self) -> str:
        """Augmentation of the run's images."""
        return "none" if self.run.variety is None else self.run.variety.augmentation

    def augment(self, x: Tensor) -> Tensor:
        """Return an augmented batch (batch, channel, height, width)."""
        height, width = x.shape[-2:]
        if self.augmentation == "shift":
            rows, columns = self.changes.integers(-1, 2, size=2).tolist()
            return x.roll((rows, columns), (-2, -1))
        if self.augmentation == "flip":
            return x.flip(-1) if self.changes.random() < 1 / 2 else x
        if self.augmentation == "noise":
            return x + 0.1 * torch.from_numpy(self.changes.standard_normal(x.shape, dtype=np.float32)).to(x.device)
        size = max(1, min(height, width) // 4)
        row, column = self.changes.integers(height - size + 1), self.changes.integers(width - size + 1)
        x = x.clone()
        x[..., row : row + size, column : column + size] = 0
        return x

    def masks(self, steps: int, features: int) -> np.ndarray:
        """Return 1 / (1 - dropout) where a feature is kept and 0 elsewhere, (steps, batch, features)."""
        shape = (steps, self.run.batch_size, features)
        if self.run.dropout == 0:
            return np.ones(shape, np.float32)
        kept = self.noise.random(shape, dtype=np.float32) >= self.run.dropout
        return kept.astype(np.float32) / np.float32(1 - self.run.dropout)


def _augmented(x: Tensor, streams: Sequence[BatchStream]) -> Tensor:
    """Return the augmented batches (active, batch, channel, height, width) of all runs."""
    if all(stream.augmentation == "none" for stream in streams):
        return x
    batches = [
        batch if stream.augmentation == "none" else stream.augment(batch)
        for batch, stream in zip(x, streams, strict=True)
    ]
    return torch.stack(batches)


class StackedOptimizer:
    """SGD, momentum, Adam and AdamW in one batched update, with one optimizer per network.

    With gradient g (plus weight_decay w, except for AdamW), step t and (a, b) = (momentum, 1), or (beta1, 1 - beta1) for
    Adam:

        m <- a m + b g        v <- beta2 v + (1 - beta2) g^2
        w <- w - lr m                                                        SGD, momentum
        w <- w - lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)      Adam
        w <- w (1 - lr weight_decay), then as Adam                           AdamW
    """

    def __init__(self, runs: Sequence[RunPlan], layout: Layout, device: str = "cpu") -> None:
        self.steps = 0
        self.adam = _column([run.optimizer in ("adam", "adamw") for run in runs]).bool()
        self.lr = _column([run.lr for run in runs])
        self.carry = torch.where(self.adam, BETAS[0], _column([run.momentum for run in runs]))
        self.add = torch.where(self.adam, 1 - BETAS[0], torch.ones_like(self.lr))
        decay = _column([run.weight_decay for run in runs]) * trainable(layout)  # (M, D)
        decoupled = _column([run.optimizer == "adamw" for run in runs]).bool()
        self.penalty = torch.where(decoupled, 0.0, decay)
        self.shrink = 1 - torch.where(decoupled, self.lr * decay, 0.0)
        self.first = torch.zeros_like(decay)
        self.second = torch.zeros_like(decay)
        for name in ("adam", "lr", "carry", "add", "penalty", "shrink", "first", "second"):
            setattr(self, name, getattr(self, name).to(device))

    def step(self, weights: Float[Tensor, "active weights"], gradient: Float[Tensor, "active weights"]) -> None:
        """Update the weights of the active networks in place."""
        self.steps += 1
        live = slice(len(weights))
        adam, first, second = self.adam[live], self.first[live], self.second[live]
        gradient = gradient + self.penalty[live] * weights
        first.mul_(self.carry[live]).add_(self.add[live] * gradient)
        second.mul_(BETAS[1]).add_(gradient * gradient, alpha=1 - BETAS[1])
        size = second.div(1 - BETAS[1] ** self.steps).sqrt_().add_(EPS)
        rate = self.lr[live] / torch.where(adam, 1 - BETAS[0] ** self.steps, 1.0)
        weights.mul_(self.shrink[live]).sub_(rate * first / torch.where(adam, size, 1.0))


def trainable(layout: Layout) -> Float[Tensor, " weights"]:
    """Return 1 for trained weights and 0 for running statistics."""
    return torch.cat([torch.full((spec.size,), float(_is_trained(spec.kind))) for spec in layout.tensors])


def _is_trained(kind: str) -> bool:
    return kind not in ("running_mean", "running_var")


def _column(values: Sequence[bool | float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None]  # (M, 1)


def _due(runs: Sequence[RunPlan], checkpoints: int) -> dict[int, list[tuple[int, int]]]:
    """Return the (run, checkpoint) pairs recorded after each step."""
    due: dict[int, list[tuple[int, int]]] = {}
    for place, run in enumerate(runs):
        for number, step in enumerate(checkpoint_steps(run.steps, checkpoints)):
            due.setdefault(step, []).append((place, number))
    return due


def _batches(
    runs: Sequence[RunPlan], streams: Sequence[BatchStream], device: str
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield image indices (active, batch) and dropout masks (active, batch, feature) of the active runs at each step."""
    features = build(runs[0].architecture).head.in_features
    done = 0
    while active := sum(run.steps > done for run in runs):
        length = min(BLOCK, runs[active - 1].steps - done)
        index = np.stack([stream.indices(length) for stream in streams[:active]], axis=1)
        keep = None
        if any(run.dropout for run in runs[:active]):
            keep = torch.from_numpy(np.stack([s.masks(length, features) for s in streams[:active]], axis=1)).to(device)
        for step in range(length):
            yield torch.from_numpy(index[step]).to(device), None if keep is None else keep[step]
        done += length


def _gradient(
    runs: Sequence[RunPlan], layout: Layout, weights: Tensor, batch: Batch
) -> Float[Tensor, "active weights"]:
    """Return the gradient of each network's mean cross-entropy; summing over networks does not mix their gradients.

    Running statistics in `weights` are updated in place.
    """
    order, network = _by_architecture(tuple(run.architecture for run in runs))
    order = order.to(weights.device)
    x, y, keep = batch.x[order], batch.y[order], None if batch.keep is None else batch.keep[order]
    views = layout.unflatten(weights)
    state = {name: values[order] for name, values in views.items()}
    trained = [spec.name for spec in layout.tensors if _is_trained(spec.kind)]
    for name in trained:
        state[name].requires_grad_()
    logits = run_stacked(network, state, x, keep)
    loss = nn.functional.cross_entropy(logits.mT, y, reduction="none").mean(-1).sum()
    gradients = dict(zip(trained, torch.autograd.grad(loss, [state[name] for name in trained]), strict=True))
    for name in views.keys() - gradients.keys():
        views[name][order] = state[name]
    ordered = [gradients.get(spec.name, torch.zeros_like(state[spec.name])) for spec in layout.tensors]
    gradient = torch.cat([gradient.flatten(1) for gradient in ordered], dim=1)
    return torch.empty_like(gradient).index_copy_(0, order, gradient)


@lru_cache(maxsize=64)
def _by_architecture(architectures: tuple[Architecture, ...]) -> tuple[Int[Tensor, " networks"], Classifier]:
    """Return the networks in the order of their architectures, and one module in training mode that runs them so."""
    kinds = tuple(dict.fromkeys(architectures))
    order = sorted(range(len(architectures)), key=lambda place: kinds.index(architectures[place]))
    network = mixed_skeleton(kinds, tuple(architectures.count(kind) for kind in kinds))
    return torch.tensor(order), deepcopy(network).train()
