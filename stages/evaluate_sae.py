"""Evaluate the sparse dictionary on held-out runs: sparsity, fidelity, function and feature explanations."""

from pathlib import Path

from wscore.autoencoder.evaluation.evaluate import draw_probe_images
from wscore.autoencoder.models.autoencoder import Decoder
from wscore.evaluation.config import EvaluateConfig
from wscore.io import atomic_folder, write_csv, write_json
from wscore.networks.datasets import DataConfig, load_tasks
from wscore.runner import Run, stage
from wscore.sae.evaluation.evaluate import open_dictionary, sparse_summary_line
from wscore.sae.evaluation.explain import ExplainConfig
from wscore.sae.evaluation.plots import DRAWINGS, draw_codes, draw_features, draw_sae_training, draw_steering
from wscore.sae.evaluation.report import EvaluationData, evaluate_dictionary
from wscore.tokens.cache import TokenCache
from wscore.training.model_folder import load_model, model_identities
from wscore.zoo.store import Zoo


@stage(evaluate=EvaluateConfig, explain=ExplainConfig, data=DataConfig)
def main(
    run: Run,
    *,
    zoo: Path,
    tokens: Path,
    autoencoder: Path,
    sae: Path,
    history: Path,
    metrics: Path,
    plots: Path,
) -> str:
    """Rebuild held-out networks from their codes, explain and steer the features, next to baselines."""
    config, cache = run.params["evaluate"], TokenCache(tokens)
    images = draw_probe_images(load_tasks(run.params["data"]), config)
    material = EvaluationData(Zoo(zoo), cache, images, lambda: load_model(autoencoder / "decoder", Decoder))
    results = evaluate_dictionary(open_dictionary(sae, cache, autoencoder), material, config, run.params["explain"])
    write_json(metrics, {"sae_test": results.figures, "sae_test_of": model_identities({"sparse_dictionary": sae})})
    with atomic_folder(plots) as folder:
        for name, table in results.tables.items():
            write_csv(folder / f"{name}.csv", dict(table))
        for name, draw in DRAWINGS.items():
            draw(results.tables[name], folder / f"{name}.png")
        draw_codes(results.tables["latents"], results.codes.counts, results.codes.errors, folder / "codes.png")
        draw_features(results.portraits, folder)
        draw_steering(results.tables["steering"], folder / "steering.png")
        draw_sae_training(history, folder / "training.png")
    run.tracker.log_artifact(metrics)
    run.tracker.log_artifacts(plots)
    return sparse_summary_line(results.figures)


if __name__ == "__main__":
    main()
