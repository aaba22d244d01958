"""Train the base network once per seed and record its weights."""

from pathlib import Path

from wscore.forecasting.base import BaseConfig, record_runs, report, sentence
from wscore.io import write_json
from wscore.runner import Run, stage
from wscore.zoo.images import load_images


@stage(base=BaseConfig)
def main(run: Run, *, out: Path, metrics: Path) -> str:
    """Write a trajectory of snapshots for each seed."""
    config = run.params["base"]
    manifests = record_runs(config, load_images(config.images), out)
    found = report(manifests)
    write_json(metrics, {"base": found})
    run.tracker.log_metrics({"base": found})
    return sentence(manifests)


if __name__ == "__main__":
    main()
