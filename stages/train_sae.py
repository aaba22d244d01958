"""Learn a sparse dictionary of networks' weights."""

from pathlib import Path

from wscore.config import to_plain
from wscore.io import atomic_folder, hash_folder, write_json
from wscore.models.folder import save_model
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache
from wscore.training.callbacks import Progress, TensorBoard, TrackerLogger, resume_folder
from wscore.training.sparse import SaeConfig, train_sae
from wscore.training.sparse_inputs import open_rows


@stage(sae=SaeConfig)
def main(run: Run, *, tokens: Path, representations: Path, out: Path, history: Path, metrics: Path) -> str:
    """Train a sparse autoencoder and keep the epoch with the lowest validation loss."""
    config, cache = run.params["sae"], TokenCache(tokens)
    trained = train_sae(
        open_rows(config.input, cache, representations),
        config,
        callbacks=[TensorBoard(Path("runs") / run.name), TrackerLogger(run.tracker), Progress(run.name)],
        resume=resume_folder(run.name, str(to_plain(config)), cache.identity, hash_folder(representations)),
    )
    with atomic_folder(out) as folder:
        save_model(folder, trained.model, extra={"input": config.input, "tokens": cache.identity})
        cache.copy_codec(folder)
    trained.history.to_csv(history)
    write_json(metrics, {"sae": trained.figures})
    run.tracker.log_metrics({"sae": trained.figures})
    run.tracker.log_artifacts(out)
    return trained.summary()


if __name__ == "__main__":
    main()
