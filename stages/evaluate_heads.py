"""Judge every property head on held-out runs, beside its controls."""

from pathlib import Path

from wscore.evaluation.config import EvaluateConfig
from wscore.evaluation.heads import describe, judge, report, sentence
from wscore.evaluation.property_tables import tables
from wscore.io import atomic_folder, write_csv, write_json
from wscore.plots.heads import DRAWINGS
from wscore.runner import Run, stage
from wscore.training.heads import HeadsConfig, load_head, read_head_data
from wscore.zoo.store import Zoo


@stage(heads=HeadsConfig, evaluate=EvaluateConfig)
def main(run: Run, *, zoo: Path, representations: Path, heads: Path, metrics: Path, plots: Path) -> str:
    """Predict the properties of the held-out networks by every method and compare them with the truth."""
    config, networks = run.params["evaluate"], Zoo(zoo)
    data = read_head_data(representations, networks)
    rows, found = describe(networks, data), {}
    with atomic_folder(plots) as folder:
        for task in run.params["heads"].tasks:
            verdict = judge(load_head(heads / task, task), data, rows, config)
            found[task] = report(verdict, config)
            for name, table in tables(verdict).items():
                write_csv(folder / f"{task}_{name}.csv", table.to_dict("series"))
                DRAWINGS[name](table, folder / f"{task}_{name}.png")
    write_json(metrics, {"heads_test": found})
    run.tracker.log_metrics({"heads_test": found})
    run.tracker.log_artifacts(plots)
    return sentence(found)


if __name__ == "__main__":
    main()
