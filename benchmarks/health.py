"""Benchmark: damage that the survey recognises in networks of held-out training runs, next to controls.

    python -m benchmarks.health --zoo data/zoo --representations data/representations --model models/published

The classifier is trained on 1,000 networks of training runs and damaged copies of them, and judges 1,000 networks of
the test runs: 500 as they are, and a damaged copy of each, with all kinds of damage equally often. Prints (1) AUROC, recall
at 1% false alarms and the share of damaged networks whose cause is right, for ours and the controls, with 95% intervals over
runs; (2) recall by kind of damage; (3) how many flips and swaps change what a network answers; (4) networks trained on shuffled
labels. Controls: boosting on statistics of the weights, the exponents of the spectra as in WeightWatcher (Martin and Mahoney
2021), our classifier trained on shuffled causes. Takes about five minutes on one core.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from benchmarks.lineage import Images, train
from wscore.config import load_section
from wscore.encoder.features import CHAIN, select
from wscore.encoder.weight_encoder import WeightEncoder
from wscore.encoder.weight_statistics import STATISTICS
from wscore.networks.architectures import build, parse
from wscore.networks.datasets import DataConfig, load_tasks
from wscore.networks.layout import Layout
from wscore.publish.pretrained import PublishedHead, head_parts
from wscore.survey.damages import DAMAGES, MATRICES, causes_for
from wscore.survey.health import (
    CAUSES,
    Examples,
    HealthModel,
    damage_scores,
    damaged_rows,
    health_features,
    make_examples,
)  # fmt: skip
from wscore.survey.ranking import rank
from wscore.survey.records import Group
from wscore.survey.rules import CERTAIN, rule_findings
from wscore.zoo.store import Zoo

TRAINED, TESTED, RESAMPLES, FALSE_ALARMS = 1000, 500, 300, 0.01
NOISE_ARCHITECTURES, NOISE_NETWORKS, EPOCHS = 5, 10, 15  # half of the networks see shuffled labels
FUNCTIONAL = ("flipped channels", "layer of another network", "re-initialised layer", "dead channels")


class Judged(NamedTuple):
    """Networks that are judged.

    Attributes:
        groups: by layout, healthy and damaged ones.
        truth: cause of each, or `healthy`.
        runs: training run of each.
        last: whether it is the last checkpoint.
    """

    groups: list[Group]
    truth: np.ndarray
    runs: np.ndarray
    last: np.ndarray


def main() -> None:
    """Print all parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("data/zoo"))
    parser.add_argument("--representations", type=Path, default=Path("data/representations"))
    parser.add_argument("--model", default="models/published")
    options = parser.parse_args()
    torch.set_num_threads(1)
    zoo, encoder = Zoo(options.zoo), WeightEncoder.from_pretrained(options.model)
    table = pd.read_parquet(options.representations / "representations.parquet", columns=["model_id", "split"])
    split = np.asarray(table.set_index("model_id")["split"][zoo.table["model_id"]])
    known = np.sort(np.random.default_rng(0).permutation(np.flatnonzero(split == "train"))[:TRAINED])
    examples = make_examples(groups_of(zoo, known), encoder.probes)
    judged = make_judged(zoo, np.flatnonzero(split == "test"))
    features = features_of(judged.groups, encoder, examples)
    model = HealthModel(examples)
    print_table(judged, features, examples, model)
    print_functions(zoo, judged)
    print_noise(zoo, options.model, encoder, model, examples)


def groups_of(zoo: Zoo, rows: np.ndarray) -> list[Group]:
    """Return networks by layout, those of layouts with one network left out."""
    layouts, names = (zoo.table[name].to_numpy()[rows] for name in ("layout", "model_id"))
    return [
        Group(layout, zoo.weights(rows[layouts == key]), names[layouts == key].tolist())
        for key, layout in zoo.layouts.items()
        if (layouts == key).sum() > 1
    ]


def make_judged(zoo: Zoo, rows: np.ndarray) -> Judged:
    """Return test networks, and a damaged copy of each."""
    random = np.random.default_rng(0)
    groups, truth, names = [], [], []
    for group in groups_of(zoo, np.sort(random.permutation(rows)[:TESTED])):
        causes = causes_for(group.layout)
        drawn = random.integers(len(causes), size=len(group.names))
        broken = group.vectors.copy()
        for place, cause in enumerate(causes):
            chosen = np.flatnonzero(drawn == place)
            if len(chosen):
                broken[chosen] = damaged_rows(group, cause, chosen, random)
        known = [*group.names, *group.names]
        labels = [f"{name} {number}" for number, name in enumerate(known)]
        groups.append(Group(group.layout, np.concatenate([group.vectors, broken]), labels))
        truth += ["healthy"] * len(group.names) + [causes[place] for place in drawn]
        names += known
    of_network = zoo.table.set_index("model_id").loc[names]
    last = of_network["checkpoint"].to_numpy() == zoo.table["checkpoint"].max()
    return Judged(groups, np.array(truth), of_network["run_id"].to_numpy(), last)


def features_of(groups: Sequence[Group], encoder: WeightEncoder, examples: Examples) -> np.ndarray:
    """Return the features of the examples for other networks."""
    return np.concatenate(
        [select(health_features(group, encoder.probes), examples.names, len(group.names)) for group in groups]
    )


def print_table(judged: Judged, features: np.ndarray, examples: Examples, model: HealthModel) -> None:
    """Print AUROC, recall and causes of all methods, and the recall of ours by kind of damage."""
    named = rule_causes(judged.groups)
    shuffled = examples._replace(cause=np.random.default_rng(0).permutation(examples.cause))
    statistics = np.array([name.rpartition(".")[2] in STATISTICS and CHAIN not in name for name in examples.names])
    exponents = spectral_exponents(judged.groups)
    tables = {
        "ours": combined(model.probabilities(features), named),
        "boosting on our features": combined(boosted(examples.features, examples.cause, features), named),
        "classifier without rules": combined(model.probabilities(features), np.full(len(named), "")),
        "statistics + boosting": combined(
            boosted(examples.features[:, statistics], examples.cause, features[:, statistics]), np.full(len(named), "")
        ),
        "shuffled causes": combined(HealthModel(shuffled).probabilities(features), np.full(len(named), "")),
    }
    print(f"{len(judged.truth)} networks, AUROC / recall at {FALSE_ALARMS:.0%} false alarms / right cause")
    for rows, group in ((np.ones(len(judged.truth), bool), "all checkpoints"), (judged.last, "last checkpoints")):
        for name, (score, cause) in tables.items():
            print(f"  {group}, {name}: {scored(judged, score, cause, rows)}")
    distance = np.abs(exponents - np.nanmedian(exponents))
    print(f"  exponents of spectra: AUROC {roc_auc_score(judged.truth != 'healthy', np.nan_to_num(distance)):.3f}")
    score, cause = tables["ours"]
    limit = np.quantile(score[judged.truth == "healthy"], 1 - FALSE_ALARMS)
    for kind in DAMAGES:
        rows = judged.truth == kind
        print(
            f"  {kind}: {rows.sum()}, found {np.mean(score[rows] > limit):.2f}, named {np.mean(cause[rows] == kind):.2f}"
        )


def rule_causes(groups: Sequence[Group]) -> np.ndarray:
    """Return the cause that a rule finds with certainty for each network, or an empty text."""
    found: dict[str, str] = {}
    for group in groups:
        for finding in rule_findings(group):
            if finding.cause in CERTAIN:
                found.setdefault(f"{group.layout.identity} {finding.network}", finding.cause)
    return np.array([found.get(f"{group.layout.identity} {name}", "") for group in groups for name in group.names])


def combined(probabilities: np.ndarray, named: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and causes: those of rules first."""
    learned = np.array(CAUSES)[1 + probabilities[:, 1:].argmax(axis=1)]
    return np.where(named != "", 2.0, damage_scores(probabilities)), np.where(named != "", named, learned)


def boosted(features: np.ndarray, causes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the probabilities of causes by boosted trees."""
    trees = HistGradientBoostingClassifier(max_iter=100, max_features=0.3, random_state=0).fit(features, causes)
    probabilities = np.zeros((len(others), len(CAUSES)))
    probabilities[:, trees.classes_] = trees.predict_proba(others)
    return probabilities


def scored(judged: Judged, score: np.ndarray, cause: np.ndarray, rows: np.ndarray) -> str:
    """Return the three figures with their intervals over runs."""
    random, runs = np.random.default_rng(0), np.unique(judged.runs[rows])
    members = [np.flatnonzero((judged.runs == run) & rows) for run in runs]
    samples = [np.flatnonzero(rows)]
    samples += [
        np.concatenate([members[number] for number in random.integers(len(runs), size=len(runs))])
        for _ in range(RESAMPLES)
    ]
    values = np.array([_figures(judged.truth[sample], score[sample], cause[sample]) for sample in samples])
    low, high = np.quantile(values[1:], [0.025, 0.975], axis=0)
    return ", ".join(f"{value:.3f} [{a:.3f}, {b:.3f}]" for value, a, b in zip(values[0], low, high, strict=True))


def _figures(truth: np.ndarray, score: np.ndarray, cause: np.ndarray) -> tuple[float, float, float]:
    damaged = truth != "healthy"
    limit = np.quantile(score[~damaged], 1 - FALSE_ALARMS)
    right = np.mean(cause[damaged] == truth[damaged])
    return float(roc_auc_score(damaged, score)), float(np.mean(score[damaged] > limit)), float(right)


def spectral_exponents(groups: Sequence[Group]) -> np.ndarray:
    """Return the mean exponent of power laws fitted to the eigenvalues of W^T W of the matrices of each network."""
    return np.concatenate([np.mean(_exponents(group.layout, group.vectors), axis=0) for group in groups])


def _exponents(layout: Layout, vectors: np.ndarray) -> list[np.ndarray]:
    """Return the maximum-likelihood exponent above the median eigenvalue (Clauset et al. 2009) per matrix."""
    exponents = []
    for spec, span in zip(layout.tensors, layout.slices().values(), strict=True):
        if spec.kind in MATRICES:
            matrices = vectors[:, span].reshape(len(vectors), spec.shape[0], -1).astype(np.float64)
            values = np.sort(np.linalg.svd(matrices, compute_uv=False) ** 2, axis=1)
            tail = np.maximum(values[:, values.shape[1] // 2 :], 1e-30)
            exponents.append(1 + tail.shape[1] / np.maximum(np.log(tail / tail[:, :1]).sum(axis=1), 1e-9))
    return exponents


def print_functions(zoo: Zoo, judged: Judged) -> None:
    """Print on how many test images networks answer as before they were damaged."""
    images = load_tasks(load_section(DataConfig, "data")).images[0]
    architectures = zoo.table.set_index("model_id")["architecture"]
    agreement: dict[str, list[float]] = {kind: [] for kind in FUNCTIONAL}
    start = 0
    for group in judged.groups:
        count = len(group.names) // 2
        truth = judged.truth[start + count : start + 2 * count]
        for row in np.flatnonzero(np.isin(truth, FUNCTIONAL)).tolist():
            network = build(parse(str(architectures[group.names[row].partition(" ")[0]]))).eval()
            before, after = (_answers(network, group, number, images.x_test) for number in (row, count + row))
            agreement[truth[row]].append(float((before == after).float().mean()))
        start += 2 * count
    for kind, shares in agreement.items():
        same = np.mean(np.array(shares) > 0.98)
        print(f"  {kind}: answers that stay {np.mean(shares):.2f}, networks that hardly change (over 98%) {same:.2f}")


@torch.no_grad()
def _answers(network: torch.nn.Module, group: Group, row: int, images: torch.Tensor) -> torch.Tensor:
    network.load_state_dict(group.layout.unflatten(torch.from_numpy(group.vectors[row])), strict=False)
    return network(images).argmax(dim=1)


def print_noise(zoo: Zoo, source: str, encoder: WeightEncoder, model: HealthModel, examples: Examples) -> None:
    """Print how well networks trained on shuffled labels are told from others that are trained alike."""
    groups, noise, members = train_on_noise(zoo)
    head = PublishedHead(head_parts(source, ["accuracy"])["accuracy"], encoder)
    features = features_of(groups, encoder, examples)
    rows = rank(groups, encoder, head).rows
    scores = {
        "damage score": damage_scores(model.probabilities(features)),
        "predicted accuracy": -np.array([row["predicted"] if row["predicted"] is not None else 0.5 for row in rows]),
        "boosting, cross-validated by architecture": _cross_validated(features, noise, members),
        "exponents of spectra": spectral_exponents(groups),
    }
    print(f"trained on shuffled labels: {noise.sum()} of {len(noise)}; AUROC")
    for name, score in scores.items():
        print(f"  {name}: {roc_auc_score(noise, score):.3f}")


def train_on_noise(zoo: Zoo) -> tuple[list[Group], np.ndarray, np.ndarray]:
    """Return networks by architecture, which of them have seen shuffled labels, and the number of their architecture."""
    images = load_tasks(load_section(DataConfig, "data")).images[0]
    random = np.random.default_rng(0)
    groups, noise, members = [], [], []
    for number, row in enumerate(random.permutation(zoo.last_checkpoints())[:NOISE_ARCHITECTURES].tolist()):
        vectors = []
        for seed in range(NOISE_NETWORKS):
            torch.manual_seed(seed)
            order = torch.from_numpy(random.permutation(len(images.y_train)))
            labels = images.y_train[order] if seed % 2 else images.y_train
            network = train(
                build(parse(zoo.table["architecture"].iloc[row])), Images(images.x_train, labels), EPOCHS, seed
            )
            vectors.append(zoo.layout(row).flatten(network.state_dict()))
            noise.append(bool(seed % 2))
            members.append(number)
        groups.append(Group(zoo.layout(row), np.stack(vectors), [f"{number} {seed}" for seed in range(NOISE_NETWORKS)]))
    return groups, np.array(noise), np.array(members)


def _cross_validated(features: np.ndarray, noise: np.ndarray, runs: np.ndarray) -> np.ndarray:
    trees = HistGradientBoostingClassifier(max_iter=60, min_samples_leaf=5, max_features=0.3, random_state=0)
    folds = StratifiedGroupKFold(5)
    predicted = cross_val_predict(trees, np.nan_to_num(features), noise, groups=runs, cv=folds, method="predict_proba")
    return np.asarray(predicted)[:, 1]


if __name__ == "__main__":
    main()
