"""Train the autoencoder over tokenized networks."""

from pathlib import Path

from wscore.config import to_plain
from wscore.io import atomic_folder, write_json
from wscore.models.autoencoder import save_autoencoder
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache
from wscore.training.autoencoder import AeConfig, train_autoencoder, with_latent_dim
from wscore.training.callbacks import Progress, TensorBoard, TrackerLogger, resume_folder


@stage(ae=AeConfig)
def main(run: Run, *, tokens: Path, out: Path, history: Path, metrics: Path, latent_dim: int | None = None) -> str:
    """Train an autoencoder and keep the epoch with the lowest validation loss.

    Args:
        run: params and tracker.
        tokens: token cache.
        out: model folder.
        history: CSV of losses by epoch.
        metrics: JSON of figures.
        latent_dim: numbers per network instead of ae.latent_dim.
    """
    config, cache = with_latent_dim(run.params["ae"], latent_dim), TokenCache(tokens)
    trained = train_autoencoder(
        cache,
        config,
        callbacks=[TensorBoard(Path("runs") / run.name), TrackerLogger(run.tracker), Progress(run.name)],
        resume=resume_folder(run.name, str(to_plain(config)), cache.identity),
    )
    with atomic_folder(out) as folder:
        save_autoencoder(folder, trained.model, extra={"tokens": cache.identity})
        cache.copy_codec(folder)
    trained.history.to_csv(history)
    write_json(metrics, {"ae": trained.figures})
    run.tracker.log_metrics({"ae": trained.figures})
    run.tracker.log_artifacts(out)
    return trained.summary()


if __name__ == "__main__":
    main()
