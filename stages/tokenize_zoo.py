"""Split a zoo by run, fit the normaliser on the training split and write the token cache."""

from pathlib import Path

from wscore.io import write_json
from wscore.parallel import workers_here
from wscore.runner import Run, stage
from wscore.tokens.cache import build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.splits import absent_widths
from wscore.zoo.store import Zoo

PER_PROCESS = 100_000  # networks per process that are worth its start-up


@stage(tokens=TokensConfig)
def main(run: Run, *, zoo: Path, out: Path, metrics: Path) -> str:
    """Write the token cache of a zoo and its metrics."""
    networks = Zoo(zoo)
    workers = workers_here("tokens", most=1 + len(networks) // PER_PROCESS)
    config = run.params["tokens"]
    summary = build_cache(networks, config, out, workers=workers)
    figures = {"tokens": summary.figures()}
    write_json(metrics, figures)
    run.tracker.log_metrics(figures)
    absent = absent_widths(networks.table["architecture"].to_numpy(str), config.unseen_widths)
    return summary.sentence() + (f"; no network has the unseen widths {absent}" if absent else "")


if __name__ == "__main__":
    main()
