"""Self-contained folders of trained models: files copied, a card beside them, one index for all."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wscore.errors import PublishError
from wscore.io import atomic_folder, read_json, write_text
from wscore.publish import parts
from wscore.publish.card import Part, write_card, write_index
from wscore.publish.config import PublishConfig
from wscore.publish.provenance import Provenance


class Sources(NamedTuple):
    """Where the trained models lie.

    Attributes:
        autoencoder: folder with encoder/, decoder/, and beside them tokenizer, normaliser and reference networks.
        heads: folder with one folder per task.
        tasks: heads that are published.
        predictor: folder of the weight predictor.
    """

    autoencoder: Path
    heads: Path
    tasks: Sequence[str]
    predictor: Path


def read_metrics(files: Sequence[Path]) -> dict[str, Any]:
    """Return the content of several metrics files, each under its own top-level key."""
    return {key: value for file in files for key, value in read_json(file).items()}


def pack(
    out: Path, sources: Sources, metrics: Mapping[str, Any], origin: Provenance, config: PublishConfig
) -> list[str]:
    """Write all models with their cards into one folder, whole or not at all, and return their names.

    Args:
        out: replaced if it exists.
        sources: where the models lie.
        metrics: as `read_metrics` returns them, with `autoencoder_test`, `heads_test` and `predictor_test`.
        origin: for the cards.
        config: for the cards.

    Raises:
        PublishError: if a model or its figures are missing.
    """
    for name in ("autoencoder_test", "heads_test", "predictor_test"):
        if name not in metrics:
            raise PublishError("figures are missing", where=name, fix="run `dvc repro evaluate`")
    made = list(plan(sources, metrics))
    with atomic_folder(out) as folder:
        for part, files in made:
            target = folder / part.name
            for file, name in files.items():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target / name)
            write_text(target / "README.md", write_card(part, origin, config))
        write_text(folder / "README.md", write_index([part for part, _ in made], origin, config))
    return [part.name for part, _ in made]


def plan(sources: Sources, metrics: Mapping[str, Any]) -> Iterator[tuple[Part, dict[Path, str]]]:
    """Yield each part with the files that belong to it and the names that they get."""
    shared = {file: file.name for file in sorted(sources.autoencoder.glob("[!.]*.*"))}
    sides = {"encoder": parts.encoder, "decoder": parts.decoder}
    for name, part in sides.items():
        yield part(metrics["autoencoder_test"]), {**model_files(sources.autoencoder / name), **shared}
    encoder_hash = read_json(sources.autoencoder / "encoder" / "config.json")["sha256"]
    for task in sources.tasks:
        found = metrics["heads_test"].get(task, {})
        yield parts.head(task, found, encoder_hash=encoder_hash), model_files(sources.heads / task)
    files = model_files(sources.predictor)
    training = read_json(sources.predictor / "config.json").get("training", {})
    yield parts.predictor(metrics["predictor_test"], training), files


def model_files(folder: Path) -> dict[Path, str]:
    """Return the files of a model folder with their names below it, hidden ones left out.

    Raises:
        PublishError: if there is no model.
    """
    if not (folder / "config.json").is_file():
        raise PublishError("no model here: config.json is missing", where=folder, fix="run `dvc repro`")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {file: file.relative_to(folder).as_posix() for file in files}
