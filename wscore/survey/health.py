"""Recognises damage that no single mark shows, by a classifier trained on damaged copies of healthy networks."""

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wscore.encoder.dreamed_probes import ProbeSets
from wscore.encoder.features import CHAIN, Numbers, named_numbers, select
from wscore.networks.layout import Layout
from wscore.survey.contributions import unit_contributions
from wscore.survey.damages import DAMAGES, causes_for
from wscore.survey.layer_fit import layer_fit
from wscore.survey.marks import network_marks
from wscore.survey.records import Finding, Group, Progress, silent
from wscore.survey.rules import CERTAIN, matrix_roles, rule_findings

HEALTHY = "healthy"
CAUSES = (HEALTHY, *(cause for cause in DAMAGES if cause not in CERTAIN))  # classes
LEAST_FAMILIES, LEAST_NETWORKS = 100, 200  # from which damage can be learned; networks of one family are too much alike
FOLDS = 3
WIDTH, EPOCHS, LEAST_STEPS, BATCH, RATE, NOISE = 192, 25, 300, 128, 3e-3, 0.05  # of the classifier
MOST = 1000  # networks that a classifier is trained on
COPIES = 3  # damaged copies of each network
PRIOR = 0.05  # share of damaged networks that is expected
RARE, SURE = 0.01, 0.95  # the highest 1% of the scores are findings above 0.5, all others above 0.95


class Examples(NamedTuple):
    """Networks and damaged copies of them.

    Attributes:
        features: NaN where a network lacks one.
        names: of the features.
        cause: number in `CAUSES`; 0: the network itself.
        owner: number of the network, counted over all groups.
    """

    features: Float[np.ndarray, "example feature"]
    names: tuple[str, ...]
    cause: Int[np.ndarray, " example"]
    owner: Int[np.ndarray, " example"]

    def some(self, rows: Bool[np.ndarray, " example"]) -> "Examples":
        """Return some of the examples."""
        return Examples(self.features[rows], self.names, self.cause[rows], self.owner[rows])


class HealthModel(nn.Module):
    """A perceptron that recognises the cause of damage from standardised features.

    Args:
        examples: to fit on; at least two causes.
        seed: of the initial weights, batches, dropout and noise; the global random state is unchanged.
    """

    def __init__(self, examples: Examples, *, seed: int = 0) -> None:
        super().__init__()
        healthy = examples.features[examples.cause == 0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # features that no healthy network has
            self.mean, self.std = (np.nan_to_num(value) for value in (np.nanmean(healthy, 0), np.nanstd(healthy, 0)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Dropout(0.1), nn.Linear(len(examples.names), WIDTH), nn.GELU(), nn.Dropout(0.3),
                nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Dropout(0.3), nn.Linear(WIDTH, len(CAUSES)),
            )  # fmt: skip
            self._fit(self._inputs(examples.features), torch.from_numpy(examples.cause))
        self.eval()

    @torch.no_grad()
    def probabilities(self, features: Float[np.ndarray, "network feature"]) -> Float[np.ndarray, "network cause"]:
        """Return the probability of each of `CAUSES`, for the shares of causes among the examples."""
        return self.layers(self._inputs(features)).softmax(dim=1).double().numpy()

    def _inputs(self, features: np.ndarray) -> Tensor:
        standard = np.arcsinh((features - self.mean) / (self.std + 1e-6))
        return torch.from_numpy(np.nan_to_num(standard).astype(np.float32))

    def _fit(self, inputs: Tensor, causes: Tensor) -> None:
        epochs = max(EPOCHS, -(-LEAST_STEPS * BATCH // len(inputs)))
        optimizer = torch.optim.AdamW(self.parameters(), RATE, weight_decay=0.05)
        steps = epochs * -(-len(inputs) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
        for _ in range(epochs):
            for rows in torch.randperm(len(inputs)).split(BATCH):
                noisy = inputs[rows] + NOISE * torch.randn(len(rows), inputs.shape[1])
                optimizer.zero_grad()
                nn.functional.cross_entropy(self.layers(noisy), causes[rows]).backward()
                optimizer.step()
                schedule.step()


def health_features(group: Group, probes: ProbeSets) -> Numbers:
    """Return what the classifier reads of networks: marks, fit of layers, and the features of the weight encoder."""
    chunks = [_features(chunk, probes) for chunk in group.chunks()]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def make_examples(
    groups: Sequence[Group], probes: ProbeSets, *, copies: int = COPIES, seed: int = 0, progress: Progress = silent
) -> Examples:
    """Return all networks, taken to be healthy, and damaged copies with a random cause each."""
    random = np.random.default_rng(seed)
    numbers, causes, owners, start = [], [], [], 0
    for group in progress(groups, total=len(groups), unit="layout"):
        for vectors, cause, rows in _copies(group, copies, random):
            numbers.append(health_features(group._replace(vectors=vectors), probes))
            causes.append(np.full(len(rows), cause))
            owners.append(start + rows)
        start += len(group.vectors)
    names = tuple(sorted({name for found in numbers for name in found}))
    features = [select(found, names, len(rows)) for found, rows in zip(numbers, owners, strict=True)]
    return Examples(np.concatenate(features), names, np.concatenate(causes), np.concatenate(owners))


def cross_fitted(
    examples: Examples, families: Int[np.ndarray, " network"], progress: Progress = silent
) -> Float[np.ndarray, "network cause"]:
    """Return the probabilities of the causes of each network, by a classifier that has seen none of its family."""
    _, family = np.unique(families, return_inverse=True)
    fold = np.random.default_rng(0).permutation(family.max() + 1)[family] % FOLDS
    probabilities = np.eye(1, len(CAUSES)).repeat(len(families), axis=0)  # healthy, unless a classifier says otherwise
    healthy = examples.cause == 0
    for number in progress(range(FOLDS), total=FOLDS, unit="classifier"):
        held_out = fold[examples.owner] == number
        if held_out.all() or not held_out.any():
            continue
        known = np.random.default_rng(number).permutation(np.flatnonzero(fold != number))[:MOST]
        asked = examples.some(held_out & healthy)
        model = HealthModel(examples.some(np.isin(examples.owner, known)))
        probabilities[asked.owner] = model.probabilities(asked.features)
    return probabilities


def enough_to_learn(families: Int[np.ndarray, " network"]) -> bool:
    """Return whether a folder has as many networks, of as many families, as a classifier needs."""
    return len(families) >= LEAST_NETWORKS and len(np.unique(families)) >= LEAST_FAMILIES


def damage_scores(probabilities: Float[np.ndarray, "network cause"]) -> Float[np.ndarray, " network"]:
    """Return the probability of damage if a share `PRIOR` of all networks is damaged."""
    damaged, copies = 1 - probabilities[:, 0], PRIOR / (1 - PRIOR) / COPIES
    return damaged * copies / np.maximum(damaged * copies + probabilities[:, 0], 1e-12)


def health_findings(
    groups: Sequence[Group], families: Int[np.ndarray, " network"], probes: ProbeSets, progress: Progress = silent
) -> list[Finding]:
    """Return the damage of the networks of a folder, at most one learned finding per network that no rule names."""
    findings = [finding for group in groups for chunk in group.chunks() for finding in rule_findings(chunk)]
    if not enough_to_learn(families):
        return findings
    examples = make_examples(groups, probes, progress=progress)
    probabilities = cross_fitted(examples, families, progress)
    scores = damage_scores(probabilities)
    named = {finding.network for finding in findings}
    names = [(group, name) for group in groups for name in group.names]
    healthy = examples.some(examples.cause == 0)
    threshold = np.clip(np.quantile(scores, 1 - RARE), 0.5, SURE)
    for number in np.flatnonzero(scores > threshold).tolist():
        group, name = names[number]
        if name not in named:
            cause = CAUSES[1 + int(probabilities[number, 1:].argmax())]
            tensor, evidence = _evidence(healthy, number, group.layout)
            findings.append(
                Finding(
                    network=name,
                    cause=cause,
                    tensor=tensor,
                    evidence=evidence,
                    source="learned",
                    score=float(scores[number]),
                )
            )
    return findings


def _features(group: Group, probes: ProbeSets) -> Numbers:
    layout, vectors = group.layout, group.vectors
    with np.errstate(all="ignore"):
        numbers = named_numbers(layout, vectors, probes)
        numbers |= unit_contributions(layout, vectors, probes, numbers)
        return numbers | network_marks(layout, vectors) | layer_fit(layout, vectors)


def _copies(group: Group, copies: int, random: np.random.Generator) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
    """Yield networks, then damaged copies by cause: weights, number of the cause, and the networks they are made from."""
    causes = [cause for cause in causes_for(group.layout) if cause in CAUSES]
    if len(group.vectors) < 2:
        causes = [cause for cause in causes if cause != "layer of another network"]
    count = len(group.vectors)
    yield group.vectors, 0, np.arange(count)
    drawn = random.integers(len(causes), size=(copies, count))
    for place, cause in enumerate(causes):
        for row in range(copies):
            rows = np.flatnonzero(drawn[row] == place)
            if len(rows):
                yield damaged_rows(group, cause, rows, random), CAUSES.index(cause), rows


def damaged_rows(group: Group, cause: str, rows: Int[np.ndarray, " row"], random: np.random.Generator) -> np.ndarray:
    """Return damaged copies of some networks of a group; layers of other networks may come from all of them."""
    others = len(group.vectors) // 2
    kept = rows if cause != "layer of another network" else np.concatenate([rows, (rows - others) % len(group.vectors)])
    changed = DAMAGES[cause](group.layout, group.vectors[kept], random)
    return changed[: len(rows)].astype(np.float32)


def _evidence(healthy: Examples, number: int, layout: Layout) -> tuple[str, str]:
    """Return the tensor and a sentence about the feature of a network that is farthest outside the usual range."""
    roles = {role: tensor for tensor, role in matrix_roles(layout).items()}
    values = healthy.features[healthy.owner == number][0]
    usable = np.array([name.partition(".")[0] in roles for name in healthy.names]) & np.isfinite(values)
    columns = np.flatnonzero(usable)
    low, middle, high = np.nanpercentile(healthy.features[:, columns], [2.5, 50, 97.5], axis=0)
    distance = np.abs(values[columns] - middle) / np.maximum(high - low, 1e-6)
    best = int(distance.argmax())
    role, _, name = healthy.names[columns[best]].partition(".")
    if distance[best] <= 0.5:
        return "", "its outputs on probe images are unlike those of the other networks" if _was_run(healthy) else (
            "its weights together are unlike those of the other networks"
        )
    value = values[columns[best]]
    return roles[role], f"{name} is {value:.3g}; 95% of the networks here have {low[best]:.3g} to {high[best]:.3g}"


def _was_run(examples: Examples) -> bool:
    return any(name.startswith(CHAIN) for name in examples.names)
