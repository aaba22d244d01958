"""Train the base network per optimizer and seed and record its weights, or import runs."""

from pathlib import Path

from wscore.forecasting.trajectories.import_runs import import_runs
from wscore.forecasting.trajectories.train_base import BaseConfig, record_runs, recording_report, recording_summary_line
from wscore.io import write_json
from wscore.networks.images import load_images
from wscore.runner import Run, stage


@stage(base=BaseConfig)
def main(run: Run, *, out: Path, metrics: Path) -> str:
    """Write a trajectory of snapshots for each run."""
    config = run.params["base"]
    images = load_images(config.images)
    if config.source == "train":
        further = [load_images(dataset.images) for dataset in config.each[1:]]
        manifests = record_runs(config, images, out, further)
    else:
        manifests = import_runs(config, images, out)
    report = recording_report(manifests)
    write_json(metrics, {"base": report})
    run.tracker.log_metrics({"base": report})
    return recording_summary_line(manifests)


if __name__ == "__main__":
    main()
