"""Packs trained models and data sets as self-contained folders with card and checksums."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wscore.errors import PublishError
from wscore.hub.checksums import CHECKSUMS, write_checksums
from wscore.hub.upload import Upload
from wscore.io import atomic_folder, hash_folder, read_json, read_tensors, write_text
from wscore.publish import card_texts as parts
from wscore.publish.card import CardPart, write_card, write_index
from wscore.publish.config import PublishConfig
from wscore.publish.dataset import read_representations, write_representations, write_zoo
from wscore.publish.provenance import Provenance
from wscore.publish.tensorboard import write_events
from wscore.training.model_folder import model_identities
from wscore.zoo.store import Zoo

NOTHING = "# Nothing is published\n\n`publish.target` is `none`.\n"


class Sources(NamedTuple):
    """Folders of the trained models.

    Attributes:
        autoencoder: folder with encoder/, decoder/, tokenizer, normaliser and reference networks; None publishes none.
        encoder: folder of the weight encoder.
        decoder: folder of its decoder, published with it; None or empty: there is none.
        codec: folder of the weight codec.
        heads: folder with one folder per task.
        tasks: heads to publish.
        sae: folder of the sparse dictionary; None publishes none.
        predictor: folder of the weight predictor; None publishes none.
        plots: folder with the history.csv of each training, below `autoencoder`, `encoder`, `heads/<task>`, `sae` and
            `predictor`.
    """

    autoencoder: Path | None
    encoder: Path
    decoder: Path | None
    codec: Path
    heads: Path
    tasks: Sequence[str]
    sae: Path | None
    predictor: Path | None
    plots: Path


class ModelContent(NamedTuple):
    """Content of the folder of one model.

    Attributes:
        part: content of its card.
        files: source files by published name.
        history: training curves; None for a model that is fitted in one pass.
    """

    part: CardPart
    files: Mapping[Path, str]
    history: Path | None


def read_metrics(files: Sequence[Path]) -> dict[str, Any]:
    """Return the content of several metrics files, of those that exist, each under its own top-level key."""
    return {key: value for file in files if file.is_file() for key, value in read_json(file).items()}


def pack_models(
    out: Path, sources: Sources, metrics: Mapping[str, Any], origin: Provenance, config: PublishConfig
) -> list[str]:
    """Write all models with their cards into one folder, atomically, and return their names.

    Args:
        out: replaced if it was published before.
        sources: folders of the models.
        metrics: as `read_metrics` returns them, with `autoencoder_test`, `heads_test`, `sae_test` and
            `predictor_test`, and each with `<name>_of`, the models that it was measured on; `codec_test` is shown if it is
            there.
        origin: for the cards.
        config: for the cards.

    Raises:
        PublishError: if a model or its metrics are missing or don't belong together, or the folder holds something else.
    """
    check_ours(out)
    contents = [] if config.target == "none" else list(plan(sources, metrics, config))
    with atomic_folder(out) as folder:
        for content in contents:
            _fill(folder / content.part.name, content, origin, config)
        index = write_index([content.part for content in contents], origin, config) if contents else NOTHING
        write_text(folder / "README.md", index)
        write_checksums(folder)
    return [content.part.name for content in contents]


def pack_datasets(out: Path, zoo: Zoo, representations: Path, origin: Provenance, config: PublishConfig) -> list[str]:
    """Write the data sets in `publish.datasets`, atomically, and return their names.

    Raises:
        PublishError: if the split of a network is not known, or the folder holds something else.
        DataError: if the representations are missing or belong to another zoo.
    """
    check_ours(out)
    names: list[str] = [] if config.target == "none" else list(config.datasets)
    with atomic_folder(out) as folder:
        if names:
            table = read_representations(representations)
            if "zoo" in names:
                splits = dict(zip(table["model_id"].astype(str), table["split"].astype(str), strict=True))
                write_zoo(folder / "zoo", zoo, splits, origin, config)
            if "representations" in names:
                write_representations(folder / "representations", representations, zoo, origin, config)
        write_checksums(folder)
    return names


def uploads(models: Path, datasets: Path, config: PublishConfig) -> list[Upload]:
    """Return the Hub repositories of a published folder: none unless `publish.target` is `hub`."""
    if config.target != "hub" or config.repo_id is None:
        return []
    if config.layout == "one":
        repositories = [Upload(config.repo_id, models)]
    else:
        folders = sorted(path.parent for path in models.rglob("config.json"))
        folders = [folder for folder in folders if folder.parent not in folders]  # a decoder goes with its encoder
        names = [folder.relative_to(models).as_posix() for folder in folders]
        repositories = [Upload(str(config.repository(name)), models / name) for name in names]
    return [
        *repositories,
        *(Upload(str(config.repository(name)), datasets / name, "dataset") for name in config.datasets),
    ]


def check_ours(folder: Path) -> None:
    """Return if a folder may be replaced: it is missing, empty, or was published before.

    Raises:
        PublishError: if it holds something else.
    """
    if not folder.exists():
        return
    held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else ["a file"]
    if held and CHECKSUMS not in held:
        raise PublishError(
            "is not empty and was not published by wscore", where=folder, got=", ".join(held[:5]),
            fix="choose another folder, or remove this one yourself",
        )  # fmt: skip


def plan(sources: Sources, metrics: Mapping[str, Any], config: PublishConfig) -> Iterator[ModelContent]:
    """Yield the content of each folder of `publish.parts`.

    Raises:
        PublishError: if a model or its metrics are missing, the metrics are those of another model, or the heads read latents
            of another encoder.
    """
    for name, contents in PARTS.items():
        if name in config.parts:
            yield from contents(sources, metrics, config)


def _autoencoder(sources: Sources, metrics: Mapping[str, Any], config: PublishConfig) -> Iterator[ModelContent]:
    if sources.autoencoder is None:
        return
    shared = {file: file.name for file in sorted(sources.autoencoder.glob("[!.]*.*"))}
    for name, part in {"encoder": parts.encoder, "decoder": parts.decoder}.items():
        figures = _figures(metrics, "autoencoder_test", name, sources.autoencoder / name)
        files = {**model_files(sources.autoencoder / name), **shared}
        yield ModelContent(part(figures, config), files, sources.plots / "autoencoder/history.csv")


def _codec(sources: Sources, metrics: Mapping[str, Any], config: PublishConfig) -> Iterator[ModelContent]:
    files = model_files(sources.codec)
    size = sum(file.stat().st_size for file in files)
    if "codec_test" in metrics:
        _check_identity(metrics, "codec_test", "codec", hash_folder(sources.codec))
    yield ModelContent(parts.codec(metrics.get("codec_test", {}), size, config), files, None)


def _heads(sources: Sources, metrics: Mapping[str, Any], config: PublishConfig) -> Iterator[ModelContent]:
    encoder_hash = read_json(sources.encoder / "config.json")["sha256"]
    for task in sources.tasks:
        folder = sources.heads / task
        _figures(metrics, "heads_test", task, folder)
        facts = read_json(folder / "config.json")
        read = facts.get("encoder", encoder_hash)
        if read != encoder_hash:
            raise PublishError("reads latents of another encoder", where=folder, expected=encoder_hash, got=read,
                               fix=f"run `dvc repro train_heads@{task}`")  # fmt: skip
        targets = [target["name"] for target in facts.get("targets", ())]
        part = parts.head(task, targets, metrics, config, encoder_hash=encoder_hash)
        yield ModelContent(part, model_files(folder), sources.plots / f"heads/{task}/history.csv")


def _dictionary(sources: Sources, metrics: Mapping[str, Any], config: PublishConfig) -> Iterator[ModelContent]:
    if sources.sae is None:
        return
    figures = _figures(metrics, "sae_test", "sparse_dictionary", sources.sae)
    part = parts.sparse_dictionary(figures, read_json(sources.sae / "config.json"), config)
    yield ModelContent(part, model_files(sources.sae), sources.plots / "sae/history.csv")


def _predictor(sources: Sources, metrics: Mapping[str, Any], config: PublishConfig) -> Iterator[ModelContent]:
    if sources.predictor is None:
        return
    figures = _figures(metrics, "predictor_test", "predictor", sources.predictor)
    part = parts.predictor(figures, read_json(sources.predictor / "config.json").get("training", {}), config)
    yield ModelContent(part, model_files(sources.predictor), sources.plots / "predictor/history.csv")


def _weight_encoder(sources: Sources, metrics: Mapping[str, Any], config: PublishConfig) -> Iterator[ModelContent]:
    """Return the content of the weight encoder; its metrics are those of linear probes on its latents."""
    files = model_files(sources.encoder)
    if sources.decoder is not None and any(sources.decoder.iterdir()):
        files |= {file: f"decoder/{name}" for file, name in model_files(sources.decoder).items()}
    part = parts.weight_encoder(metrics, config)
    yield ModelContent(part, files, sources.plots / "encoder/history.csv")


#: What is published of each part, in the order of the index.
PARTS: dict[str, Callable[[Sources, Mapping[str, Any], PublishConfig], Iterator[ModelContent]]] = {
    "autoencoder": _autoencoder, "codec": _codec, "encoder": _weight_encoder, "heads": _heads, "dictionary": _dictionary,
    "predictor": _predictor,
}  # fmt: skip


def _figures(metrics: Mapping[str, Any], name: str, model: str, folder: Path) -> Mapping[str, Any]:
    """Return the metrics of an evaluation, checked to be those of the model in a folder.

    Raises:
        PublishError: if they are missing, or of another model.
    """
    if name not in metrics:
        fix = f"run `dvc repro evaluate_{name.removesuffix('_test')}`, or leave the model out of publish.parts"
        raise PublishError("metrics are missing", where=name, fix=fix)
    model_files(folder)
    _check_identity(metrics, name, model, model_identities({model: folder})[model])
    return metrics[name]


def _check_identity(metrics: Mapping[str, Any], name: str, model: str, expected: str) -> None:
    """Return if an evaluation measured the model of this hash.

    Raises:
        PublishError: if it did not.
    """
    got = metrics.get(f"{name}_of", {}).get(model, "unknown")
    if got != expected:
        raise PublishError(
            "metrics are those of another model", where=f"{name}: {model}", expected=expected, got=got,
            fix="run `make repro`",
        )  # fmt: skip


def model_files(folder: Path) -> dict[Path, str]:
    """Return the files of a model folder by their relative names, without hidden ones.

    Raises:
        PublishError: if there is no model.
    """
    if not (folder / "config.json").is_file():
        fix = "run `dvc repro`, or leave it out of publish.parts"
        raise PublishError("no model here: config.json is missing", where=folder, fix=fix)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {file: file.relative_to(folder).as_posix() for file in files}


def _fill(target: Path, content: ModelContent, origin: Provenance, config: PublishConfig) -> None:
    for file, name in content.files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / name)
    if content.history is not None:
        if not content.history.is_file():
            raise PublishError("training curves are missing", where=content.history, fix="run `dvc repro`")
        write_events(content.history, target)
    write_text(target / "README.md", write_card(content.part, origin, config, size=_size(target)))
    write_checksums(target)


def _size(folder: Path) -> str:
    """Return the count of numbers and the bytes of the tensors of a model."""
    files = sorted(folder.rglob("*.safetensors"))
    numbers = sum(tensor.numel() for file in files for tensor in read_tensors(file).values())
    return f"{numbers:,} numbers, {sum(file.stat().st_size for file in files) / 1000:,.0f} kB"
