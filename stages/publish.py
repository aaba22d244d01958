"""Pack the trained models and data sets as self-contained folders with cards, and optionally upload them."""

from pathlib import Path

from wscore.hub.upload import upload
from wscore.publish.config import PublishConfig
from wscore.publish.pack import Sources, pack_datasets, pack_models, read_metrics, uploads
from wscore.publish.provenance import gather_provenance
from wscore.runner import Run, stage
from wscore.zoo.store import Zoo

# Only `publish` is used here; the other sections are copied to the cards.
RECORDED = dict.fromkeys(
    ("data", "zoo", "tokens", "ae", "encoder", "decoder", "features", "heads", "sae", "base", "predictor"), dict
)


@stage(publish=PublishConfig, **RECORDED)
def main(
    run: Run,
    *,
    zoo: Path,
    representations: Path,
    encoder: Path,
    codec: Path,
    heads: Path,
    metrics: list[Path],
    plots: Path,
    out: Path,
    datasets: Path,
    autoencoder: Path | None = None,
    decoder: Path | None = None,
    sae: Path | None = None,
    predictor: Path | None = None,
) -> str:
    """Write folders of models and of data sets, those of the pipeline to models/published and data/published."""
    config, networks = run.params["publish"], Zoo(zoo)
    sections = {name: run.params[name] for name in RECORDED}
    origin = gather_provenance(networks, sections, models=out, tables=datasets)
    sources = Sources(autoencoder, encoder, decoder, codec, heads, run.params["heads"]["tasks"], sae, predictor, plots)
    names = pack_models(out, sources, read_metrics(metrics), origin, config)
    tables = pack_datasets(datasets, networks, representations, origin, config)
    run.tracker.log_metrics({"published_models": len(names), "published_datasets": len(tables)})
    addresses = upload(uploads(out, datasets, config), private=config.private)
    uploaded = f"; uploaded: {', '.join(addresses)}" if addresses else ""
    return f"{len(names)} models ({', '.join(names)}) and {len(tables)} data sets ({', '.join(tables)}){uploaded}"


if __name__ == "__main__":
    main()
