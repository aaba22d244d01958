"""Forecast weights as networks: what they do at once, and after some more steps of the training that they come from."""

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
    """Images on which networks are run and trained on.

    Attributes:
        dataset: where they are from; networks of other data sets are not run.
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
        """Return whether networks of a run can be judged on these images."""
        return manifest.network is not None and manifest.dataset == self.dataset


class ProbeScore(NamedTuple):
    """What one network does on the probe images.

    Attributes:
        accuracy: share in the right class.
        loss: mean cross-entropy (nats).
        classes: its answers.
    """

    accuracy: float
    loss: float
    classes: Int[Tensor, " images"]


class Recovery(NamedTuple):
    """One forecast after some steps of training.

    Attributes:
        run: name of the run.
        source: what forecasts of this run are a test of.
        last: the last snapshot known.
        later: whether all targets of the window lie after the split.
        horizon: steps ahead of the forecast.
        method: whose forecast.
        steps: optimiser steps made since.
        accuracy: on the probe images.
        loss: likewise (nats).
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
    """Return `count` test images of a fixed draw, or all if there are fewer, and all training images."""
    chosen = torch.from_numpy(np.sort(np.random.default_rng(0).permutation(len(images.x_test))[:count]))
    return RecoveryImages(images.name, images.x_test[chosen], images.y_test[chosen], images.x_train, images.y_train)


def score(network: nn.Module, layout: Layout, vector: Float[Tensor, " weights"], probe: RecoveryImages) -> ProbeScore:
    """Return what a network with these weights does on the probe images."""
    logits = run_network(network, layout, vector[None], probe.images)
    found = scores(logits, probe.labels)
    return ProbeScore(float(found.accuracy), float(found.loss), logits[0].argmax(-1))


def score_all(
    run: Trajectory, forecasts: Mapping[str, Float[Tensor, "horizon weights"]], probe: RecoveryImages
) -> dict[str, list[ProbeScore]]:
    """Return the score of every method's forecast at every horizon; equal forecasts are run once."""
    spec = run.manifest.network
    assert spec is not None
    network = build_network(spec).eval()
    found = {}
    for name, forecast in forecasts.items():
        same = bool((forecast[1:] == forecast[:1]).all())
        scores = [score(network, run.layout, row, probe) for row in (forecast[:1] if same else forecast)]
        found[name] = scores * len(forecast) if same else scores
    return found


def recover(
    run: Trajectory,
    vectors: Mapping[str, Float[Tensor, " weights"]],
    last: int,
    probe: RecoveryImages,
    steps: Sequence[int],
) -> Iterator[tuple[str, int, ProbeScore]]:
    """Yield the score of each network after each of some counts of steps of its run's own training, 0 first.

    All take the same batches. The optimiser starts anew, without the moments that the run had gathered: they belong to
    other weights. So do copies and averages, which makes them comparable. Of a run from elsewhere, of which nobody knows
    how it was trained, nothing is yielded.

    Args:
        run: where the weights come from; its manifest says how it was trained.
        vectors: weights by method.
        last: snapshot that was the present, for the learning rate and the draw of the batches.
        probe: images to train on and to judge on.
        steps: counts of steps, rising.
    """
    manifest = run.manifest
    if manifest.optimizer not in get_args(OptimizerName) or manifest.snapshots.lr[last] is None:
        return
    batches = list(_batches(manifest, last, len(probe.train_labels), max(steps, default=0)))
    for name, vector in vectors.items():
        network = _network(manifest.network, run, vector)
        rate = manifest.snapshots.lr[last] or manifest.snapshots.lr[0]
        spec = OptimizerSpec(name=manifest.optimizer, lr=rate)  # pyright: ignore[reportArgumentType]
        optimizer = make_optimizer(spec, network.parameters(), weight_decay=manifest.weight_decay or 0.0)
        yield name, 0, score(network, run.layout, torch.from_numpy(run.layout.flatten(network.state_dict())), probe)
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


def _network(spec: NetworkSpec | None, run: Trajectory, vector: Tensor) -> nn.Module:
    assert spec is not None
    network = build_network(spec)
    network.load_state_dict({name: tensor.clone() for name, tensor in run.layout.unflatten(vector).items()})
    return network


def _batches(manifest: Manifest, last: int, count: int, steps: int) -> Iterator[Tensor]:
    random, size = np.random.default_rng([manifest.seed, last]), manifest.batch_size or 64
    for _ in range(steps):
        yield torch.from_numpy(random.choice(count, min(size, count), replace=False))
