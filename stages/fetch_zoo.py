"""Train or read the zoo of networks, by `zoo.source`."""

from pathlib import Path

from wscore.io import write_csv, write_json
from wscore.needs import describe_needs, needs_of
from wscore.networks.datasets import DataConfig
from wscore.runner import Run, stage
from wscore.zoo.config import ZooConfig
from wscore.zoo.sources import fetch_zoo
from wscore.zoo.store import Zoo
from wscore.zoo.summary import exclusion_table as kept_and_excluded
from wscore.zoo.summary import how_runs_are_told, zoo_statistics


@stage(data=DataConfig, zoo=ZooConfig)
def main(run: Run, *, out: Path, report: Path, metrics: Path) -> str:
    """Write the zoo, its metrics and a table of kept and excluded networks; say what later stages will miss in it."""
    excluded = fetch_zoo(run.params["zoo"], run.params["data"], out)
    zoo = Zoo(out)
    summary = zoo_statistics(zoo)
    write_csv(report, kept_and_excluded(zoo))
    write_json(metrics, {"zoo": summary})
    run.tracker.log_metrics(summary)
    runs = f"{summary['runs']:,.0f} runs{how_runs_are_told(zoo)}"
    return f"{summary['networks']:,.0f} networks of {runs}, {excluded} excluded{describe_needs(needs_of(zoo))}"


if __name__ == "__main__":
    main()
