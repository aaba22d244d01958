"""Evaluate every property head on held-out runs, next to baselines."""

from pathlib import Path

from wscore.heads.dataset import read_head_data
from wscore.heads.evaluation.config import EvaluateHeadsConfig
from wscore.heads.evaluation.evaluate import (
    control_inputs,
    evaluate,
    heads_report,
    heads_summary_line,
    resample,
    unseen_report,
)
from wscore.heads.evaluation.inside import evaluate_inside
from wscore.heads.evaluation.ood import evaluate_ood, ood_summary_line
from wscore.heads.evaluation.plots import DRAWINGS
from wscore.heads.evaluation.tables import heads_tables
from wscore.heads.features import FeaturesConfig
from wscore.heads.representations import open_encoder
from wscore.heads.train import HeadsConfig, load_head
from wscore.io import atomic_folder, write_csv, write_json
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache
from wscore.training.model_folder import model_identities
from wscore.zoo.store import Zoo


@stage(features=FeaturesConfig, heads=HeadsConfig, evaluate_heads=EvaluateHeadsConfig)
def main(
    run: Run, *, zoo: Path, tokens: Path, encoder: Path, representations: Path, heads: Path, metrics: Path, plots: Path
) -> str:
    """Predict the properties of held-out networks with every method and compare them with the true values."""
    config, kind, networks = run.params["evaluate_heads"], run.params["heads"], Zoo(zoo)
    data = read_head_data(representations, networks, TokenCache(tokens) if kind.reads_tokens else None)
    rows, report, unseen = control_inputs(networks, data, kind, config), {}, {}
    with atomic_folder(plots) as folder:
        for task in kind.tasks:
            verdict = evaluate(load_head(heads / task, task), data, rows, config)
            resamples = resample(verdict, config)
            report[task] = heads_report(verdict, config, resamples)
            unseen |= {task: found} if (found := unseen_report(verdict, report[task], config)) else {}
            for name, table in heads_tables(verdict, resamples).items():
                write_csv(folder / f"{task}_{name}.csv", table.to_dict("series"))
                DRAWINGS[name](table, folder / f"{task}_{name}.png")
    elsewhere = {} if config.ood is None else evaluate_ood(config.ood, networks, data, rows, kind, config)
    inside = evaluate_inside(open_encoder(run.params["features"], encoder), networks, data, config)
    sections = {"heads_test": report, "heads_unseen": unseen, "heads_held_out": elsewhere, "heads_inside": inside}
    content = {name: found for name, found in sections.items() if found}
    write_json(metrics, content | {"heads_test_of": model_identities({task: heads / task for task in kind.tasks})})
    run.tracker.log_artifact(metrics)
    run.tracker.log_artifacts(plots)
    return heads_summary_line(report, unseen) + (f"; {ood_summary_line(elsewhere)}" if elsewhere else "")


if __name__ == "__main__":
    main()
