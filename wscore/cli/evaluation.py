"""The command `evaluate`: results of another method, beside those of all controls, on the splits of the pipeline."""

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from wscore.autoencoder.evaluation.controls import LayoutGroup, MeanNetwork
from wscore.autoencoder.evaluation.evaluate import draw_probe_images, held_out
from wscore.autoencoder.evaluation.evaluate import evaluate as compare_networks
from wscore.autoencoder.evaluation.evaluate_codec import EvaluateCodecConfig, drawn, rows_of_split
from wscore.autoencoder.evaluation.fidelity import intervals, summarise
from wscore.cli.output import print_json, print_table
from wscore.config import load_section
from wscore.errors import DataError, ModelError, WscoreWarning
from wscore.evaluation.bootstrap import bounds, run_weights
from wscore.evaluation.config import EvaluateConfig
from wscore.heads.evaluation.bootstrap_metrics import regression
from wscore.heads.evaluation.config import EvaluateHeadsConfig
from wscore.heads.evaluation.metrics import regression_scores
from wscore.heads.train import HeadsConfig
from wscore.io import read_json, write_csv
from wscore.networks.checkpoints import SUFFIXES, read_network
from wscore.networks.datasets import DataConfig, load_tasks
from wscore.networks.known_layouts import KnownLayouts
from wscore.networks.layout import Layout, layout_of
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo

TEST, MINE = "test", "mine"
Networks = dict[str, np.ndarray]  # rows in the zoo of the networks on which an evaluation of the pipeline measures


class Rebuilt:
    """Networks that another method has rebuilt, as files MODEL_ID.safetensors (or another suffix) of a folder.

    Raises:
        DataError: if there is no such folder.
    """

    def __init__(self, folder: Path, zoo: Zoo) -> None:
        if not folder.is_dir():
            raise DataError("no such folder", where=folder, expected="rebuilt networks as MODEL_ID.safetensors")
        self.files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES}
        self.names = zoo.table["model_id"].astype(str).to_numpy()

    def missing(self, rows: np.ndarray) -> list[str]:
        """Return the networks without a file."""
        return [name for name in self.names[rows].tolist() if name not in self.files]

    def restore(self, group: LayoutGroup) -> np.ndarray:
        """Return the rebuilt networks (n, D), units in the order of their files.

        Raises:
            DataError: naming the file, if it can't be read.
            ModelError: naming it, if it holds another network.
        """
        known = KnownLayouts({group.layout.identity: group.layout})
        vectors = []
        for name in self.names[group.rows].tolist():
            state = read_network(self.files[name]).state
            match = known.match(layout_of(state))
            if match is None:
                expected = f"{group.layout.size:,} weights in {len(group.layout.tensors)} tensors"
                raise ModelError("is not the network of this name", where=self.files[name], expected=expected)
            vectors.append(match.flatten(state))
        return np.stack(vectors)

    def floats(self, layout: Layout) -> None:
        """Return None: what was stored is not known."""


def evaluate(options: argparse.Namespace) -> None:
    """Print the results of another method beside those of the controls, or write the splits."""
    zoo, cache = Zoo(options.zoo), TokenCache(options.tokens)
    sections: dict[str, Any] = {}
    if options.splits:
        _write_splits(zoo, cache, Path(options.splits))
    if options.predictions:
        sections |= {
            "accuracy of held-out networks": predicted(zoo, cache, Path(options.predictions), Path(options.metrics))
        }
    if options.rebuilt:
        sections |= rebuilt(zoo, cache, Path(options.rebuilt), Path(options.metrics))
    if options.json:
        print_json(sections)
        return
    for title, rows in sections.items():
        print_table([{name: _shown(value) for name, value in row.items()} for row in rows], title=f"{title}\n")


def predicted(zoo: Zoo, cache: TokenCache, file: Path, metrics: Path) -> list[dict[str, Any]]:
    """Return the scores of predictions and of the methods of `evaluate_heads`, best first, with 95% intervals over runs.

    Args:
        zoo: the networks.
        cache: their splits.
        file: CSV with the columns model_id and value, for all test networks; others are ignored.
        metrics: folder of metrics.

    Raises:
        DataError: if the file lacks a column or a network, or has one twice, or a value is no number.
    """
    config, target = (
        load_section(EvaluateHeadsConfig, "evaluate_heads"),
        load_section(HeadsConfig, "heads").accuracy_target,
    )
    table = zoo.table[cache.splits(len(zoo)) == TEST]
    table = table[pd.Series(pd.to_numeric(table[target], errors="coerce")).notna()]
    values = _read_predictions(file, table["model_id"].astype(str).to_numpy())
    truth = table[target].to_numpy(float)
    weights = run_weights(table["run_id"].to_numpy(str), samples=config.bootstrap_samples, seed=config.seed)
    scores: dict[str, float] = {**regression_scores(truth, values)}
    scores |= bounds(regression(truth, values, weights)) if len(weights) else {}
    report = _report(metrics, "heads").get("accuracy", {})
    if report.get("networks", len(truth)) != len(truth):
        text = f"measured on {report['networks']:.0f} networks, not {len(truth)}: run `dvc repro evaluate_heads`"
        warnings.warn(f"{metrics}: {text}", WscoreWarning, stacklevel=2)
    methods = {MINE: scores} | {
        name: figures for name, figures in report.items() if isinstance(figures, Mapping) and "r2" in figures
    }
    rows = [_row(name, figures, ("r2", "mae", "kendall_tau")) for name, figures in methods.items()]
    return sorted(rows, key=lambda row: row["r2"], reverse=True)


def rebuilt(zoo: Zoo, cache: TokenCache, folder: Path, metrics: Path) -> dict[str, list[dict[str, Any]]]:
    """Return how rebuilt networks compare with their originals, beside the methods of the evaluation of the same networks.

    Args:
        zoo: the originals.
        cache: their splits.
        folder: of rebuilt networks.
        metrics: folder of metrics.

    Raises:
        DataError: if networks are missing of both evaluations, those of the autoencoder and those of the codec.
    """
    mine, sections = Rebuilt(folder, zoo), {}
    config = load_section(EvaluateConfig, "evaluate")
    for name, rows in held_out_networks(zoo, cache).items():
        missing = mine.missing(rows)
        if missing:
            shown = f"no {missing[0]} and {len(missing) - 1} more of {len(rows)} networks"
            warnings.warn(f"no comparison with the {name}: {folder} holds {shown}", WscoreWarning, stacklevel=2)
            continue
        if name == "codec":
            settings = load_section(EvaluateCodecConfig, "evaluate_codec")
            config = msgspec.structs.replace(
                config,
                probe_images=settings.probe_images,
                seed=settings.seed,
                bootstrap_samples=settings.bootstrap_samples,
            )
        scores = _fidelity(zoo, cache, rows, mine, config)
        methods = {MINE: scores} | _methods(_report(metrics, name))
        rows_of_table = [_row(method, figures, ("agreement", "accuracy_change", "accuracy", "compression_ratio"))
                         for method, figures in methods.items()]  # fmt: skip
        ranked = sorted(rows_of_table, key=lambda row: row["agreement"], reverse=True)
        sections[f"rebuilt networks, beside the {name} ({len(rows)} networks)"] = ranked
    if not sections:
        fix = "`wscore evaluate --splits splits.csv` writes which are needed"
        raise DataError("networks are missing", where=folder, expected="a file for each held-out network", fix=fix)
    return sections


def held_out_networks(zoo: Zoo, cache: TokenCache) -> Networks:
    """Return the rows of the networks that each evaluation of the pipeline rebuilds."""
    codec = load_section(EvaluateCodecConfig, "evaluate_codec")
    rows = rows_of_split(cache, TEST)
    chosen = rows[drawn(zoo.table["run_id"].to_numpy(str)[rows], codec.max_networks, codec.seed)]
    return {"autoencoder": held_out(cache, load_section(EvaluateConfig, "evaluate")), "codec": chosen}


def _write_splits(zoo: Zoo, cache: TokenCache, path: Path) -> None:
    places = np.arange(len(zoo))
    columns: dict[str, Any] = {"model_id": zoo.table["model_id"], "run_id": zoo.table["run_id"]}
    columns["split"] = cache.splits(len(zoo))
    write_csv(
        path,
        columns | {f"rebuilt_{name}": np.isin(places, rows) for name, rows in held_out_networks(zoo, cache).items()},
    )


def _read_predictions(file: Path, wanted: np.ndarray) -> np.ndarray:
    expected = "columns model_id and value"
    try:
        table = pd.read_csv(file, dtype={"model_id": str})
    except (ValueError, OSError) as error:
        raise DataError("can't be read", where=file, expected=f"CSV with {expected}", got=error) from error
    if not {"model_id", "value"} <= set(table.columns):
        raise DataError("lacks a column", where=file, expected=expected, got=", ".join(map(str, table.columns)))
    if table["model_id"].duplicated().any():
        raise DataError(
            "names a network twice", where=file, got=table["model_id"][table["model_id"].duplicated()].iloc[0]
        )
    values = pd.Series(
        np.asarray(pd.to_numeric(table["value"], errors="coerce"), float), index=table["model_id"]
    ).reindex(wanted)
    wrong = values.index[~np.isfinite(values.to_numpy(float))].tolist()
    if wrong:
        got = f"none for {len(wrong)} of them, such as {wrong[0]}"
        raise DataError("predictions are missing", where=file, expected=f"a number for each of {len(wanted)} test networks",
                        got=got, fix="`wscore evaluate --splits splits.csv` writes which are needed")  # fmt: skip
    return values.to_numpy(float)


def _fidelity(zoo: Zoo, cache: TokenCache, rows: np.ndarray, mine: Rebuilt, config: EvaluateConfig) -> dict[str, float]:
    """Return the function metrics of rebuilt networks."""
    probe = draw_probe_images(load_tasks(load_section(DataConfig, "data")), config)
    ways = {MINE: mine, "mean_network": MeanNetwork(cache.of_split("train", config.batch_size))}
    table = compare_networks(zoo, rows, ways, probe, cache=cache, batch_size=config.batch_size).networks
    run = pd.DataFrame(table[(table["method"] == MINE) & table["agreement"].notna()])
    if run.empty:
        raise DataError("no network of the zoo can be run", where=zoo.folder, expected="a known architecture")
    return summarise(run) | intervals(run, samples=config.bootstrap_samples, seed=config.seed)


def _methods(report: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Return the methods of a report; those of the codec are named by method and ratio."""
    methods: dict[str, Mapping[str, float]] = {}
    for name, figures in report.items():
        if isinstance(figures, Mapping) and "agreement" in figures:
            methods[name] = figures
        elif isinstance(figures, Mapping) and name.endswith("x"):
            methods |= {
                f"{method}, {name}": scores
                for method, scores in figures.items()
                if isinstance(scores, Mapping) and "agreement" in scores
            }
    return methods


def _report(metrics: Path, name: str) -> Mapping[str, Any]:
    path = metrics / f"{name}_test.json"
    if not path.is_file():
        raise DataError("no metrics of the controls", where=path, fix=f"run `dvc repro evaluate_{name}`")
    return read_json(path)[f"{name}_test"]


def _row(method: str, scores: Mapping[str, float], names: tuple[str, ...]) -> dict[str, Any]:
    row: dict[str, Any] = {"method": method}
    for name in names:
        row[name] = scores.get(name)
        low, high = scores.get(f"{name}_low"), scores.get(f"{name}_high")
        if low is not None and high is not None:
            row[f"95% of {name}"] = [low, high]
    return row


def _shown(value: Any) -> Any:
    return f"[{value[0]:.3f}, {value[1]:.3f}]" if isinstance(value, list) else value
