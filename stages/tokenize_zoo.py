"""Stage `tokenize`: split the zoo by run, fit the normaliser on the training split, tokenize and cache."""

from pathlib import Path

from wscore.io import write_json
from wscore.networks.datasets import DataConfig, load_tasks
from wscore.parallel import workers_here
from wscore.runner import Run, stage
from wscore.tokens.cache import build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo

PER_PROCESS = 100_000  # networks for which one more process is worth its start
PROBES = 128  # training images on which activations are compared


@stage(tokens=TokensConfig, data=DataConfig)
def main(run: Run, *, zoo: Path, out: Path, metrics: Path) -> str:
    """Write the token cache of a zoo and what it holds."""
    config = run.params["tokens"]
    tasks = load_tasks(run.params["data"]) if config.align == "activations" else None
    images = None if tasks is None else tasks.map(lambda one: one._replace(x_train=one.x_train[:PROBES]))
    networks = Zoo(zoo)
    workers = workers_here("tokens", most=1 + len(networks) // PER_PROCESS)
    summary = build_cache(networks, config, out, images=images, workers=workers)
    figures = {"tokens": summary.figures()}
    write_json(metrics, figures)
    run.tracker.log_metrics(figures)
    return summary.sentence()


if __name__ == "__main__":
    main()
