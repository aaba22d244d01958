"""Train networks of hidden widths that the zoo does not have."""

from pathlib import Path

import msgspec

from studies.codec.config import CodecStudyConfig
from wscore.networks.datasets import DataConfig
from wscore.runner import Run, stage
from wscore.zoo.config import ZooConfig
from wscore.zoo.sources import fetch_zoo


@stage(codec_study=CodecStudyConfig, zoo=ZooConfig, data=DataConfig)
def main(run: Run, *, out: Path) -> str:
    """Write a zoo of the families in `codec_study.other_widths`, all else as in section `zoo`."""
    config = run.params["codec_study"]
    zoo = msgspec.structs.replace(
        run.params["zoo"], source="generate", families=tuple(config.other_widths), n_runs=config.other_runs, n_networks=None,
        widths={**run.params["zoo"].widths, **config.other_widths}, seed=run.params["zoo"].seed + 1,
    )  # fmt: skip
    excluded = fetch_zoo(zoo, run.params["data"], out)
    return f"{config.other_runs} runs of other widths, {excluded} checkpoints excluded"


if __name__ == "__main__":
    main()
