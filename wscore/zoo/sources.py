"""Sources of a zoo: `zoo.source` selects the function that writes it to a folder."""

from collections.abc import Callable
from pathlib import Path

from wscore.networks.datasets import DataConfig, load_tasks
from wscore.networks.images import ImagesConfig
from wscore.zoo.config import ZooConfig
from wscore.zoo.generate import generate_zoo
from wscore.zoo.readers.flat_vectors import plan_small_cnns, plan_vectors
from wscore.zoo.readers.folder import plan_folder, plan_trials
from wscore.zoo.readers.ingest import ReadPlan, ingest
from wscore.zoo.readers.tables import plan_hub, plan_parquet
from wscore.zoo.stated_accuracy import check_accuracies


def fetch_zoo(config: ZooConfig, data: DataConfig | ImagesConfig, out: Path) -> int:
    """Write the zoo of a configuration and return the number of excluded checkpoints.

    Raises:
        ConfigError: if a parameter required by the source is missing.
        DataError: if images or networks are missing, or all networks are excluded.
    """
    if config.source == "generate":
        return generate_zoo(config, load_tasks(data), out)
    factories = data.factories if isinstance(data, DataConfig) else {}
    excluded = ingest(SOURCES[config.source](config), config, out, factories)
    check_accuracies(out, data)
    return excluded


SOURCES: dict[str, Callable[[ZooConfig], ReadPlan]] = {
    "folder": plan_folder,
    "hub": plan_hub,
    "parquet": plan_parquet,
    "zoo_dataset": plan_vectors,
    "ray_tune": plan_trials,
    "small_cnn_zoo": plan_small_cnns,
}
