"""Compare the codec of the zoo with codes that know no zoo, on test runs and on other widths."""

from pathlib import Path

from studies.codec.codec_study import (
    draw,
    evaluate,
    facts_of,
    learning_rates,
    open_zoo,
    summary_line,
    table,
    unseen,
)
from studies.codec.config import CodecStudyConfig
from studies.codec.plots import draw_table, markdown
from wscore.autoencoder.coding.codec import WeightCodec
from wscore.config import to_plain
from wscore.evaluation.partial_results import Parts
from wscore.io import atomic_folder, hash_folder, write_csv, write_json, write_text
from wscore.networks.datasets import DataConfig, load_tasks
from wscore.runner import Run, stage
from wscore.tokens.config import TokensConfig
from wscore.training.callbacks import resume_folder
from wscore.zoo.store import Zoo


@stage(codec_study=CodecStudyConfig, data=DataConfig, tokens=TokensConfig)
def main(run: Run, *, zoo: Path, codec: Path, other: Path, out: Path) -> str:
    """Code every drawn network by every method at every ratio, and run what comes back."""
    config, images = run.params["codec_study"], load_tasks(run.params["data"]).images[0]
    seen = open_zoo(Zoo(zoo), images, run.params["tokens"])
    parts = Parts(resume_folder(run.name, str(to_plain(config)), seen.zoo.identity, hash_folder(codec)))
    fitted = WeightCodec.from_folder(codec)
    chosen = draw(seen, "validation", runs=config.validation_runs, seed=config.seed)
    (rates,) = parts("rates", lambda: [learning_rates(fitted, chosen, config)])
    rows = evaluate(fitted, draw(seen, "test", runs=config.runs, seed=config.seed), config, rates, parts)
    others = draw(open_zoo(Zoo(other), images, None), "test", runs=config.other_runs, seed=config.seed)
    unseen_rows = unseen(fitted, others, config.ratios)
    found, unseen_found = table(rows, config), table(unseen_rows, config)
    with atomic_folder(out) as folder:
        facts = {
            **facts_of(rows, unseen_rows, codec, config),
            **{f"lr_{name}": value for name, value in rates.items()},
        }
        for name, content in (("networks", rows), ("table", found), ("unseen_widths", unseen_found)):
            write_csv(folder / f"{name}.csv", dict(content))
        write_json(folder / "facts.json", facts)
        write_text(folder / "table.md", markdown(found, unseen_found, facts))
        draw_table(found, folder / "agreement.png")
    parts.remove()
    run.tracker.log_artifacts(out)
    return summary_line(found)


if __name__ == "__main__":
    main()
