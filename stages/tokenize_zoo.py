"""Stage `tokenize`: split the zoo by run, fit the normaliser on the training split, tokenize and cache."""

from pathlib import Path

from wscore.io import write_json
from wscore.runner import Run, stage
from wscore.tokens.cache import build_cache
from wscore.tokens.config import TokenizeConfig
from wscore.zoo.store import Zoo


@stage(tokens=TokenizeConfig)
def main(run: Run, *, zoo: Path, out: Path, metrics: Path) -> str:
    """Write the token cache of a zoo and what it holds."""
    config = run.params["tokens"]
    summary = build_cache(Zoo(zoo), config, out, workers=config.spread)
    figures = {"tokens": summary.figures()}
    write_json(metrics, figures)
    run.tracker.log_metrics(figures)
    return summary.sentence()


if __name__ == "__main__":
    main()
