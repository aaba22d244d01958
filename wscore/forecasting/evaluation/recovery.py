"""Evaluation of forecast weights as networks: immediately, and after some further steps of training."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wscore.forecasting.trajectories.optimizers import OptimizerName, OptimizerSpec, make_optimizer
from wscore.forecasting.trajectories.store import Manifest, Trajectory
from wscore.networks.images import Images
from wscore.networks.inference import scores
from wscore.networks.layout import Layout
from wscore.networks.lenet import NetworkSpec, build_network
from wscore.networks.lenet import run_networks as run_network


class RecoveryImages(NamedTuple):
    """Images on which networks are evaluated and trained.

    Attributes:
        dataset: name of the data set; networks trained on other data sets are not evaluated.
        images: test images with values in [0, 1].
        labels: their classes.
        train_images: images for recovery steps.
        train_labels: their classes.
    """

    dataset: str
    images: Float[Tensor, "images channel height width"]
    labels: Int[Tensor, " images"]
    train_images: Float[Tensor, "train_images channel height width"]
    train_labels: Int[Tensor, " train_images"]

    def fits(self, manifest: Manifest) -> bool:
        """Return whether networks of a run can be evaluated on these images."""
        return manifest.network is not None and manifest.dataset == self.dataset


class ProbeScore(NamedTuple):
    """Results of one network on the probe images.

    Attributes:
        accuracy: share of correctly classified images.
        loss: mean cross-entropy (nats).
        classes: predicted classes.
    """

    accuracy: float
    loss: float
    classes: Int[Tensor, " images"]


class Recovery(NamedTuple):
    """One forecast after some steps of training.

    Attributes:
        run: name of the run.
        source: test set of the run.
        last: the last snapshot known.
        later: whether all targets of the window lie after the split.
        horizon: steps ahead of the forecast.
        method: that made the forecast.
        steps: optimiser steps since the forecast.
        accuracy: on the probe images.
        loss: on the probe images (nats).
    """

    run: str
    source: str
    last: int
    later: bool
    horizon: int
    method: str
    steps: int
    accuracy: float
    loss: float


def draw_recovery_images(images: Images, count: int) -> RecoveryImages:
    """Return a fixed sample of `count` test images (all if there are fewer) and all training images."""
    chosen = torch.from_numpy(np.sort(np.random.default_rng(0).permutation(len(images.x_test))[:count]))
    return RecoveryImages(images.name, images.x_test[chosen], images.y_test[chosen], images.x_train, images.y_train)


def score(network: nn.Module, layout: Layout, vector: Float[Tensor, " weights"], probe: RecoveryImages) -> ProbeScore:
    """Return the score of a network with these weights on the probe images."""
    logits = run_network(network, layout, vector[None], probe.images)
    result = scores(logits, probe.labels)
    return ProbeScore(float(result.accuracy), float(result.loss), logits[0].argmax(-1))


def score_all(
    run: Trajectory, forecasts: Mapping[str, Float[Tensor, "horizon weights"]], probe: RecoveryImages
) -> dict[str, list[ProbeScore]]:
    """Return the score of every method's forecast at every horizon; equal forecasts are evaluated once."""
    spec = run.manifest.network
    assert spec is not None
    network = build_network(spec).eval()
    by_method = {}
    for name, forecast in forecasts.items():
        same = bool((forecast[1:] == forecast[:1]).all())
        scores = [score(network, run.layout, row, probe) for row in (forecast[:1] if same else forecast)]
        by_method[name] = scores * len(forecast) if same else scores
    return by_method


def recover(
    run: Trajectory,
    vectors: Mapping[str, Float[Tensor, " weights"]],
    scores: Mapping[str, ProbeScore],
    last: int,
    probe: RecoveryImages,
    steps: Sequence[int],
) -> Iterator[tuple[str, int, ProbeScore]]:
    """Yield the score of each network after 0 and further numbers of training steps with the run's own settings.

    All use the same batches. The optimiser state is reset, since the moments of the run belong to other weights; this
    holds for copies and averages too, so that methods are comparable. Nothing is yielded for imported runs with unknown
    training settings.

    Args:
        run: source of the weights; its manifest has the training settings.
        vectors: weights by method.
        scores: of these networks, after 0 steps.
        last: last known snapshot, which sets the learning rate and the order of the batches.
        probe: images for training and evaluation.
        steps: numbers of steps, ascending.
    """
    manifest = run.manifest
    if manifest.optimizer not in get_args(OptimizerName) or manifest.snapshots.lr[last] is None:
        return
    batches = list(_batch_indices(manifest, last, len(probe.train_labels), max(steps, default=0)))
    for name, vector in vectors.items():
        network = _load_network(manifest.network, run, vector)
        rate = manifest.snapshots.lr[last] or manifest.snapshots.lr[0]
        spec = OptimizerSpec(name=manifest.optimizer, lr=rate)  # pyright: ignore[reportArgumentType]
        optimizer = make_optimizer(spec, network.parameters(), weight_decay=manifest.weight_decay or 0.0)
        yield name, 0, scores[name]
        network.train()
        for number, chosen in enumerate(batches, start=1):
            optimizer.zero_grad()
            logits = network(probe.train_images[chosen].contiguous(memory_format=torch.channels_last))
            nn.functional.cross_entropy(logits, probe.train_labels[chosen]).backward()
            optimizer.step()
            if number in steps:
                yield (
                    name,
                    number,
                    score(network, run.layout, torch.from_numpy(run.layout.flatten(network.state_dict())), probe),
                )
                network.train()


def _load_network(spec: NetworkSpec | None, run: Trajectory, vector: Tensor) -> nn.Module:
    assert spec is not None
    network = build_network(spec)
    network.load_state_dict({name: tensor.clone() for name, tensor in run.layout.unflatten(vector).items()})
    return network


def _batch_indices(manifest: Manifest, last: int, count: int, steps: int) -> Iterator[Tensor]:
    random, size = np.random.default_rng([manifest.seed, last]), manifest.batch_size or 64
    for _ in range(steps):
        yield torch.from_numpy(random.choice(count, min(size, count), replace=False))
