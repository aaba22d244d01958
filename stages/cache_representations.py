"""Encode every network once with the frozen encoder."""

from pathlib import Path

from wscore.heads.features import FeaturesConfig
from wscore.heads.representations import cache_representations, open_encoder
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo


@stage(features=FeaturesConfig)
def main(run: Run, *, zoo: Path, tokens: Path, encoder: Path, out: Path) -> str:
    """Write the latents of all networks, with ids and splits, and the numbers that the encoder reads."""
    used = open_encoder(run.params["features"], encoder)
    count = cache_representations(TokenCache(tokens), Zoo(zoo), used, out)
    run.tracker.log_metrics({"representations": {"networks": float(count)}})
    return f"{count:,} networks encoded"


if __name__ == "__main__":
    main()
