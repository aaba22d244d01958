"""Benchmark: lineage tests, next to cosine, distance, shared layers and latents.

    python -m benchmarks.lineage --zoo data/zoo --model models/published

Prints (1) the p-values of checkpoints of one run and of independent networks; (2) how many networks are found again after a
permutation of units, rounding to 8 bits, pruning of 30% and five epochs on images of letters, among all networks of their
layout, at a false discovery rate of 1%; the controls have the best threshold without a false discovery; (3) the direction of
descent; (4) edges of five trees of 21 LeNet-5: a root, four children, four children of each, every step three epochs on
600 images with other labels. Takes about three minutes on one core.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import kstest
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.glyphs import write_glyphs
from wscore.encoder.weight_encoder import WeightEncoder
from wscore.networks.architectures import build, parse
from wscore.networks.layout import Layout, layout_of
from wscore.networks.lenet import NetworkSpec, lenet5
from wscore.survey.age import ages, descent_log_odds
from wscore.survey.families import discoveries
from wscore.survey.independence import fixed_points_tail
from wscore.survey.lineage import compare
from wscore.survey.records import Group
from wscore.survey.relations import find_relations
from wscore.survey.unit_groups import unit_groups
from wscore.symmetry.spec import permute, random_orders
from wscore.symmetry.trace import derive_spec
from wscore.zoo.readers.hygiene import layer_digests
from wscore.zoo.store import Zoo

INDEPENDENT = 5000
CHANGED = 3  # networks of each layout that are changed
RATE = 0.01
LENET = NetworkSpec(name="lenet5", channels=1, size=28, classes=10)
State = dict[str, Tensor]


class Images(NamedTuple):
    """Images (N, 1, H, W) and labels."""

    x: Tensor
    y: Tensor

    def sample(self, count: int, random: np.random.Generator) -> "Images":
        """Return some of the images, with permuted labels."""
        rows = torch.from_numpy(random.choice(len(self.x), count, replace=False))
        return Images(self.x[rows], torch.from_numpy(random.permutation(10))[self.y[rows]])


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("data/zoo"))
    parser.add_argument("--model", default="models/published")
    options = parser.parse_args()
    torch.set_num_threads(1)
    zoo, letters = Zoo(options.zoo), load_letters()
    print_p_values(zoo)
    print_changed(zoo, letters, WeightEncoder.from_pretrained(options.model))
    print_trees(letters)


def load_letters() -> Images:
    """Return the letters of `benchmarks.glyphs`."""
    with tempfile.TemporaryDirectory() as folder:
        content = np.load(write_glyphs(Path(folder) / "glyphs") / "glyphs.npz")
        return Images(torch.from_numpy(content["x_train"]).float()[:, None] / 255, torch.from_numpy(content["y_train"]))


def train(network: nn.Module, images: Images, epochs: int, seed: int) -> nn.Module:
    """Train a network by Adam with a learning rate of 0.001 on batches of 32."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    network.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(images.x), generator=generator).split(32):
            optimizer.zero_grad()
            F.cross_entropy(network(images.x[rows]), images.y[rows]).backward()
            optimizer.step()
    return network.eval()


def print_p_values(zoo: Zoo) -> None:
    """Print the p-values of pairs of one run, and of different runs."""
    random, related, uniform, directions = np.random.default_rng(0), [], [], []
    for layout, vectors, table in _layouts(zoo):
        spec, runs = unit_groups(layout), table["run_id"].to_numpy()
        first, second = np.triu_indices(len(runs), 1)
        same = runs[first] == runs[second]
        pairs = np.stack([first[same], second[same]], axis=1)
        related.append(compare(spec, layout, vectors, pairs).p_value)
        age, epochs = ages(layout, vectors), table["checkpoint"].to_numpy()
        odds = descent_log_odds(age[pairs[:, 0]], age[pairs[:, 1]])
        directions.append((odds > 0) == (epochs[pairs[:, 0]] < epochs[pairs[:, 1]]))
        chosen = random.choice(np.flatnonzero(~same), INDEPENDENT // len(zoo.layouts) + 1, replace=False)
        fixed = compare(spec, layout, vectors, np.stack([first[chosen], second[chosen]], axis=1)).fixed
        tail = np.append(fixed_points_tail(tuple(spec.units.values())), 0)
        uniform.append(tail[fixed] - random.random(len(fixed)) * (tail[fixed] - tail[fixed + 1]))
    p_values, independent = np.concatenate(related), np.concatenate(uniform)[:INDEPENDENT]
    print(f"pairs of one run: {len(p_values):,}, p < 1e-6: {np.mean(p_values < 1e-6):.4f}")
    print(f"  the later checkpoint is recognised: {np.concatenate(directions).mean():.4f}")
    test = kstest(independent, "uniform").pvalue
    print(f"independent pairs: {len(independent):,}, p < 0.05: {np.mean(independent < 0.05):.4f}, KS p: {test:.2f}")


def print_changed(zoo: Zoo, letters: Images, encoder: WeightEncoder) -> None:
    """Print how many changed networks are found among all last checkpoints of their layout."""
    small = Images(F.adaptive_avg_pool2d(letters.x, 8), letters.y)
    p_values, controls, truth, odds = [], [], [], []
    for layout, vectors, table in _layouts(zoo, last=True):
        changed = [
            _changed(table["architecture"].iloc[row], layout, vectors[row], small, row) for row in range(CHANGED)
        ]
        joined = np.concatenate([vectors, np.stack(changed)])
        pairs = np.stack(np.triu_indices(len(joined), 1), axis=1)
        p_values.append(compare(unit_groups(layout), layout, joined, pairs).p_value)
        truth.append(pairs[:, 1] - pairs[:, 0] == len(vectors))
        controls.append(_controls(layout, joined, pairs, encoder))
        age = ages(layout, joined)
        odds.append(descent_log_odds(age[:CHANGED], age[-CHANGED:]))
    related, p_value = np.concatenate(truth), np.concatenate(p_values)
    found = discoveries(p_value, len(p_value), RATE)
    false = np.mean(~related[found]) if found.any() else 0.0
    print(f"changed networks: {related.sum()}, of {len(related):,} pairs")
    print(
        f"  found: {found[related].mean():.3f}, false: {false:.4f}, direction: {np.mean(np.concatenate(odds) > 0):.3f}"
    )
    for name in controls[0]:
        score = np.concatenate([control[name] for control in controls])
        print(f"  {name}: {np.mean(score[related] > score[~related].max()):.3f}")


def _controls(layout: Layout, vectors: np.ndarray, pairs: np.ndarray, encoder: WeightEncoder) -> dict[str, np.ndarray]:
    first, second = pairs.T
    lengths = np.linalg.norm(vectors, axis=1)
    latents = encoder.encode_many(layout, vectors).latents.numpy()
    layers = [{digest.partition(" ")[0] for digest in layer_digests(layout, vector)} for vector in vectors]
    return {
        "cosine": (vectors[first] * vectors[second]).sum(1) / (lengths[first] * lengths[second]),
        "L2 distance": -np.linalg.norm(vectors[first] - vectors[second], axis=1),
        "shared layers": np.array([len(layers[a] & layers[b]) for a, b in pairs.tolist()], float),
        "latents": -np.linalg.norm(latents[first] - latents[second], axis=1),
    }


def _changed(architecture: str, layout: Layout, vector: np.ndarray, images: Images, seed: int) -> np.ndarray:
    """Return a network with reordered units, 8 bits and 70% of its weights, trained on other images."""
    known = parse(architecture)
    network = build(known).eval()
    network.load_state_dict(layout.unflatten(torch.from_numpy(vector)))
    spec = derive_spec(network, torch.rand(2, *known.input))
    stacked = {name: tensor[None].clone() for name, tensor in network.state_dict().items()}
    orders = random_orders(spec, 1, torch.Generator().manual_seed(seed))
    state = {name: tensor[0] for name, tensor in permute(spec, stacked, orders).items()}
    network.load_state_dict({name: compressed(tensor) for name, tensor in state.items()})
    return layout.flatten(train(network, images, 5, seed).state_dict())


def compressed(tensor: Tensor) -> Tensor:
    """Return a weight matrix in 8 bits with the smallest 30% set to 0; other tensors unchanged."""
    if tensor.ndim < 2:
        return tensor
    step = tensor.abs().max() / 127
    rounded = (tensor / step).round() * step
    least = tensor.abs().flatten().kthvalue(max(1, round(0.3 * tensor.numel()))).values
    return torch.where(tensor.abs() <= least, 0.0, rounded)


def print_trees(letters: Images) -> None:
    """Print the share of edges of trees of fine-tuned networks that are found, with and without their direction."""
    digits: Any = load_digits()
    x = F.interpolate(torch.from_numpy(digits.images).float()[:, None] / 16, size=28, mode="bilinear")
    tasks = (letters, Images(x, torch.from_numpy(digits.target)))
    edges, states = [], []
    for tree in range(5):
        parents, nodes = _tree(tasks, tree)
        edges += [
            (len(states) + parent, len(states) + child) for child, parent in enumerate(parents) if parent is not None
        ]
        states += nodes
    layout = layout_of(states[0])
    vectors = np.stack([layout.flatten(state) for state in states])
    relations = find_relations([Group(layout, vectors, [str(number) for number in range(len(states))])])
    told = {tuple(edge[:2]) for edge in relations.edges}
    families = len(set(relations.family.tolist()))
    undirected = np.mean([(a, b) in told or (b, a) in told for a, b in edges])
    print(f"trees: {len(edges)} edges, {families} families; edges found: {undirected:.3f}, with direction: "
          f"{np.mean([edge in told for edge in edges]):.3f}")  # fmt: skip


def _tree(tasks: tuple[Images, Images], seed: int) -> tuple[list[int | None], list[State]]:
    """Return the parent of each of 21 networks, and their state dicts."""
    torch.manual_seed(seed)
    random, network = np.random.default_rng(seed), lenet5(LENET)
    train(network, tasks[0], 8, seed)
    parents: list[int | None] = [None, *[0] * 4, *[parent for parent in range(1, 5) for _ in range(4)]]
    nodes = [{name: tensor.clone() for name, tensor in network.state_dict().items()}]
    for number, parent in enumerate(parents[1:], start=1):
        network.load_state_dict(nodes[parent or 0])
        train(network, tasks[number % 2].sample(600, random), 3, number)
        nodes.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
    return parents, nodes


def _layouts(zoo: Zoo, *, last: bool = False) -> Iterator[tuple[Layout, np.ndarray, Any]]:
    """Yield layout, weights and metadata of the networks of each layout, or of their last checkpoints."""
    chosen = zoo.last_checkpoints() if last else np.arange(len(zoo))
    for key, layout in zoo.layouts.items():
        rows = chosen[zoo.table["layout"].to_numpy()[chosen] == key]
        yield layout, zoo.weights(rows), zoo.table.iloc[rows]


if __name__ == "__main__":
    main()
