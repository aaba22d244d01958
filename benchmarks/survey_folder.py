"""Benchmark: what the survey says of a folder with planted relatives, damage and strangers.

    python -m benchmarks.survey_folder --zoo data/zoo --model models/published

The folder holds the last checkpoints of 200 runs of the zoo, copies of some of them that were changed as the name of the file
says, and strangers. Prints a row per planted file, and how many of the other networks have a finding or a relative.
"""

import argparse
import csv
import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.lineage import Images, compressed, load_letters, train
from wscore.cli.main import main as wscore
from wscore.io import write_tensors
from wscore.networks.architectures import Architecture, build, parse
from wscore.networks.layout import Layout
from wscore.survey.damages import DAMAGES, causes_for
from wscore.symmetry.spec import permute, random_orders
from wscore.symmetry.trace import derive_spec
from wscore.zoo.store import Zoo

NETWORKS = 200
EPOCHS = 5
State = Mapping[str, Tensor]
Change = Callable[[nn.Module, State], State]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("data/zoo"))
    parser.add_argument("--model", default="models/published")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nets, out = Path(folder) / "nets", Path(folder) / "out"
        sources = write_folder(Zoo(options.zoo), nets)
        wscore(["survey", str(nets), "--model", options.model, "--out", str(out), "--json"])
        print_rows(out, sources)


def write_folder(zoo: Zoo, folder: Path) -> dict[str, str]:
    """Write the folder; return for each planted file the file that it was made from, or nothing."""
    random = np.random.default_rng(0)
    rows = np.sort(random.permutation(zoo.last_checkpoints())[:NETWORKS])
    for row in rows.tolist():
        _write(folder, f"net-{row:04d}", zoo.state_dict(row))
    sources: dict[str, str] = {}
    order = random.permutation(rows)
    parents, others = order[: len(changes())], np.sort(order[len(changes()) :])  # damage replaces no parent
    for (name, change), row in zip(changes().items(), parents.tolist(), strict=True):
        network = build(parse(zoo.table["architecture"].iloc[row])).eval()
        network.load_state_dict(zoo.state_dict(row), strict=False)
        _write(folder, name, change(network, zoo.state_dict(row)))
        sources[f"{name}.safetensors"] = f"net-{row:04d}.safetensors"
    return sources | _write_damaged(zoo, folder, others, random) | _write_strangers(folder)


def changes() -> dict[str, Change]:
    """Return what makes a relative of a network, by name."""
    images = load_letters()
    letters = Images(nn.functional.adaptive_avg_pool2d(images.x, 8), images.y)

    def tuned(network: nn.Module, state: State) -> State:
        network.load_state_dict(dict(state), strict=False)
        return train(network, letters, EPOCHS, 0).state_dict()

    def narrow(_: nn.Module, state: State) -> State:
        return {name: compressed(tensor) for name, tensor in state.items()}

    return {
        "copied": lambda _, state: state,
        "reordered": _reordered,
        "8 bits and pruned": narrow,
        "fine-tuned": tuned,
        "8 bits, pruned, fine-tuned": lambda network, state: tuned(network, narrow(network, state)),
        "reordered, 8 bits, pruned, fine-tuned": lambda network, state: tuned(
            network, narrow(network, _reordered(network, state))
        ),
    }


def _reordered(network: nn.Module, state: State) -> State:
    spec = derive_spec(network, torch.rand(2, 1, 8, 8))
    stacked = {name: tensor[None].clone() for name, tensor in network.state_dict().items()}
    orders = random_orders(spec, 1, torch.Generator().manual_seed(1))
    return {name: tensor[0] for name, tensor in permute(spec, stacked, orders).items() if name in state}


def _write_damaged(zoo: Zoo, folder: Path, rows: np.ndarray, random: np.random.Generator) -> dict[str, str]:
    """Replace two networks of the folder by damaged copies per kind of damage; return their files."""
    files = {}
    for cause in DAMAGES:
        possible = [row for row in rows.tolist() if cause in causes_for(zoo.layout(row))]
        for number, row in enumerate(random.choice(possible, 2, replace=False).tolist()):
            layout = zoo.layout(row)
            others = rows[zoo.table["layout"].to_numpy()[rows] == layout.identity]
            pair = np.stack([zoo.weights([row])[0], zoo.weights([int(random.choice(others[others != row]))])[0]])
            changed = DAMAGES[cause](layout, pair, random)[0].astype(np.float32)
            _write(folder, f"{cause} {number + 1}", _state(layout, changed))
            (folder / f"net-{row:04d}.safetensors").unlink(missing_ok=True)
            files[f"{cause} {number + 1}.safetensors"] = ""
    return files


def _write_strangers(folder: Path) -> dict[str, str]:
    torch.manual_seed(0)
    transformer = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2)
    large = Architecture(
        family="resnet", input=(3, 32, 32), classes=100, widths=(32, 64), activation="relu", pooling="max"
    )
    strangers = {"transformer": transformer, "ResNet": build(large), "<script>alert(1)<br>": nn.Linear(20, 7)}
    for name, network in strangers.items():
        _write(folder, name, network.state_dict())
    _write(folder, "NaN", {"0.weight": torch.full((4, 4), torch.nan)})
    (folder / "text.pt").write_text("no network", encoding="utf-8")
    return dict.fromkeys([*(f"{name}.safetensors" for name in (*strangers, "NaN")), "text.pt"], "")


def _state(layout: Layout, vector: np.ndarray) -> State:
    return layout.unflatten(torch.from_numpy(vector))


def _write(folder: Path, name: str, state: State) -> None:
    write_tensors(folder / f"{name}.safetensors", {key: tensor.contiguous() for key, tensor in state.items()})


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def print_rows(out: Path, sources: Mapping[str, str]) -> None:
    """Print what the survey says of each planted file, and of all others together."""
    networks, edges = (read_rows(out / f"{name}.csv") for name in ("networks", "edges"))
    networks = {row["network"]: row for row in networks}
    findings = json.loads((out / "findings.json").read_text())["findings"]
    for name, source in sources.items():
        causes = "; ".join(found["cause"] for found in findings if found["network"] == name) or "no finding"
        mine = [edge for edge in edges if name in (edge["first"], edge["second"])]
        between = [edge for edge in mine if source in (edge["first"], edge["second"])]
        relations = "; ".join(f"{edge['relation']} of {source}, p = {float(edge['p_value']):.0e}" for edge in between)
        ancestor = networks.get(name, {}).get("ancestor") or "none"
        print(f"{name} | {relations or 'no relative'} | ancestor: {ancestor} | {causes} | "
              f"other relatives: {len(mine) - len(between)}")  # fmt: skip
    planted = {*sources, *sources.values()}
    rest = [row for name, row in networks.items() if name not in planted]
    health = Counter(row["health"] for row in rest if row["health"] != "no finding")
    print(f"{len(rest)} other networks: {health.total()} with a finding ({dict(health)}), "
          f"{sum(bool(row['family']) for row in rest)} with a relative")  # fmt: skip


if __name__ == "__main__":
    main()
