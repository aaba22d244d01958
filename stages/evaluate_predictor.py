"""Evaluate weight forecasts on later windows and on held-out runs, next to baselines."""

from pathlib import Path

from wscore.forecasting.config import PredictorConfig
from wscore.forecasting.evaluation.config import ForecastConfig
from wscore.forecasting.evaluation.evaluate import evaluate_forecasts
from wscore.forecasting.evaluation.plots import draw_all
from wscore.forecasting.evaluation.recovery import draw_recovery_images
from wscore.forecasting.evaluation.tables import forecast_report, forecast_summary_line, forecast_tables
from wscore.forecasting.splits import make_plan, reachable
from wscore.forecasting.train import load_predictor
from wscore.forecasting.trajectories.store import curves, open_trajectories
from wscore.forecasting.trajectories.train_base import BaseConfig
from wscore.io import atomic_folder, write_csv, write_json
from wscore.networks.images import load_images
from wscore.runner import Run, stage
from wscore.training.model_folder import model_identities


@stage(forecast=ForecastConfig, base=BaseConfig, predictor=PredictorConfig)
def main(run: Run, *, trajectories: Path, predictor: Path, history: Path, metrics: Path, plots: Path) -> str:
    """Forecast every test window with every method and compare weights and networks with the true future."""
    config, settings, runs = run.params["predictor"], run.params["forecast"], open_trajectories(trajectories)
    probes = [draw_recovery_images(load_images(base.images), settings.probe_images) for base in run.params["base"].each]
    plan = make_plan(config, runs)
    results = evaluate_forecasts(load_predictor(predictor), plan, reachable(config, plan), probes, settings)
    report = forecast_report(results)
    write_json(metrics, {"predictor_test": report, "predictor_test_of": model_identities({"predictor": predictor})})
    with atomic_folder(plots) as folder:
        kept = {**forecast_tables(results), "base": curves(runs)}
        for name, table in kept.items():
            write_csv(folder / f"{name}.csv", dict(table))
        draw_all(kept, history, folder)
    run.tracker.log_artifact(metrics)
    run.tracker.log_artifacts(plots)
    return forecast_summary_line(report)


if __name__ == "__main__":
    main()
