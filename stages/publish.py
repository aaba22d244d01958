"""Pack the trained models as self-contained folders with cards, and upload them if a repository is named."""

from pathlib import Path

from wscore.publish.config import PublishConfig
from wscore.publish.hub import upload
from wscore.publish.pack import Sources, pack, read_metrics
from wscore.publish.provenance import gather_provenance
from wscore.runner import Run, stage
from wscore.zoo.store import Zoo

# Only `publish` is used here; the other sections are written on the cards as they are.
RECORDED = dict.fromkeys(("data", "zoo", "tokens", "ae", "heads", "base", "predictor"), dict)


@stage(publish=PublishConfig, **RECORDED)
def main(
    run: Run, *, zoo: Path, autoencoder: Path, heads: Path, predictor: Path, metrics: list[Path], out: Path
) -> str:
    """Write models/published and return how many models are in it."""
    config = run.params["publish"]
    origin = gather_provenance(Zoo(zoo), {name: run.params[name] for name in RECORDED})
    sources = Sources(autoencoder, heads, run.params["heads"]["tasks"], predictor)
    names = pack(out, sources, read_metrics(metrics), origin, config)
    run.tracker.log_metrics({"published_models": len(names)})
    address = upload(out, config)
    return f"{len(names)} models packed in {out}{f' and uploaded to {address}' if address else ''}: {', '.join(names)}"


if __name__ == "__main__":
    main()
