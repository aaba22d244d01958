"""Train the zoo of networks, or read one: `zoo.source` says which."""

from pathlib import Path

from wscore.io import write_json
from wscore.runner import Run, stage
from wscore.zoo.config import ZooConfig
from wscore.zoo.images import ImagesConfig
from wscore.zoo.sources import fetch_zoo
from wscore.zoo.store import Zoo
from wscore.zoo.summary import describe


@stage(data=ImagesConfig, zoo=ZooConfig)
def main(run: Run, *, out: Path, metrics: Path) -> str:
    """Write the zoo and its key figures."""
    set_aside = fetch_zoo(run.params["zoo"], run.params["data"], out)
    summary = describe(Zoo(out), set_aside=set_aside)
    write_json(metrics, {"zoo": summary})
    run.tracker.log_metrics(summary)
    return f"{summary['networks']:,.0f} networks of {summary['runs']:,.0f} runs, {set_aside} set aside"


if __name__ == "__main__":
    main()
