"""Encode every network once with the frozen encoder."""

from pathlib import Path

from wscore.heads.features import FeaturesConfig
from wscore.heads.representations import cache_representations
from wscore.publish.pretrained import PublishedEncoder
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo


@stage(features=FeaturesConfig)
def main(run: Run, *, zoo: Path, tokens: Path, autoencoder: Path, out: Path) -> str:
    """Write the latents of all networks, with ids and splits, and the other features of the heads."""
    config = run.params["features"]
    foreign = None
    if config.encoder is not None:
        foreign = PublishedEncoder.from_pretrained(config.encoder, revision=config.revision)
    count = cache_representations(TokenCache(tokens), Zoo(zoo), autoencoder / "encoder", out, config, foreign)
    run.tracker.log_metrics({"representations": {"networks": float(count)}})
    return f"{count:,} networks encoded"


if __name__ == "__main__":
    main()
