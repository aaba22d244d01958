"""Train one property head on the cached representations."""

from pathlib import Path

from wscore.autoencoder.models.autoencoder import Encoder
from wscore.config import to_plain
from wscore.heads.dataset import read_head_data
from wscore.heads.train import HeadsConfig, save_head, train_head
from wscore.io import atomic_folder, hash_folder
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache
from wscore.training.callbacks import Progress, TensorBoard, TrackerLogger, resume_folder
from wscore.training.model_folder import load_model
from wscore.zoo.store import Zoo


@stage(heads=HeadsConfig)
def main(
    run: Run, *, task: str, zoo: Path, tokens: Path, autoencoder: Path, representations: Path, out: Path, history: Path
) -> str:
    """Train the head of a task and keep the epoch with the lowest validation loss."""
    config, networks = run.params["heads"], Zoo(zoo)
    data = read_head_data(representations, networks, TokenCache(tokens) if config.reads_tokens else None)
    encoder = load_model(autoencoder / "encoder", Encoder) if config.mode == "finetune" else None
    identity = (str(to_plain(config)), task, networks.identity, hash_folder(representations))
    head, curve = train_head(
        task,
        config,
        data,
        encoder=encoder,
        callbacks=[TensorBoard(Path("runs") / run.name), TrackerLogger(run.tracker), Progress(run.name)],
        resume=resume_folder(run.name, *identity),
    )
    with atomic_folder(out) as folder:
        save_head(folder, head)
    curve.to_csv(history)
    run.tracker.log_artifacts(out)
    return f"{task}: best epoch {curve.best_epoch} of {len(curve)}, validation loss {curve.best['validation_loss']:.4f}"


if __name__ == "__main__":
    main()
