"""Train the weight predictor on recorded trajectories."""

from pathlib import Path

from wscore.config import to_plain
from wscore.forecasting.config import PredictorConfig
from wscore.forecasting.train import save_predictor, train_predictor, training_report, training_summary_line
from wscore.forecasting.trajectories.store import identities, open_trajectories
from wscore.io import atomic_folder, write_json
from wscore.runner import Run, stage
from wscore.training.callbacks import Progress, TensorBoard, TrackerLogger, resume_folder


@stage(predictor=PredictorConfig)
def main(run: Run, *, trajectories: Path, out: Path, history: Path, metrics: Path) -> str:
    """Train a model to forecast the next snapshots from the last ones."""
    config, runs = run.params["predictor"], open_trajectories(trajectories)
    trained = train_predictor(
        config,
        runs,
        callbacks=[TensorBoard(Path("runs") / run.name), TrackerLogger(run.tracker), Progress(run.name)],
        resume=resume_folder(run.name, str(to_plain(config)), *identities(runs)),
    )
    with atomic_folder(out) as folder:
        save_predictor(folder, trained)
    trained.history.to_csv(history)
    report = training_report(trained)
    write_json(metrics, {"predictor": report})
    run.tracker.log_metrics({"predictor": report})
    run.tracker.log_artifacts(out)
    return training_summary_line(trained)


if __name__ == "__main__":
    main()
