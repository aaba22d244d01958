"""Saves and loads models as self-describing folders.

    folder/
      config.json         {"format": 1, "class": "MlpEncoder", "config": {...}, "sha256": "...", "tied": {...}, ...}
      model.safetensors   the state dict; tensors that share memory are stored once

A model class is decorated with `@register` and built by `cls(config)`, or by `cls.from_config(config)` if its
constructor has other arguments; `config` is annotated by its `Section` and kept as `.config`. Nothing is pickled and no
shape is inferred from tensors.

A class whose configuration has changed since the first release has a class attribute `folder_format` of 2 or more, and
converts older configurations with a static method `upgraded(config, format)`. Older folders are rejected if it returns
None or does not exist.
"""

import hashlib
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from wscore.config import Section, convert, to_plain
from wscore.errors import ConfigError, DataError, ModelError
from wscore.io import read_json, read_tensors, write_json, write_tensors

FORMAT = 1  # default of classes
CONFIG, WEIGHTS = "config.json", "model.safetensors"
RESERVED = ("format", "class", "config", "sha256", "tied")
STEPS_PER_TENSOR, FREE_STEPS = 64, 10_000  # torch operations that building a model may take
MODELS: dict[str, type[nn.Module]] = {}
#: Module of each registered class, so that a folder is read without importing every product.
HOMES = {
    "Blend": "wscore.heads.ensemble",
    "Decoder": "wscore.autoencoder.models.autoencoder",
    "DiffusionPredictor": "wscore.forecasting.models.per_weight",
    "Encoder": "wscore.autoencoder.models.autoencoder",
    "EncoderNetwork": "wscore.encoder.model",
    "Forest": "wscore.heads.trees",
    "GramPredictor": "wscore.forecasting.models.predictors",
    "Head": "wscore.heads.mlp_head",
    "PcaPredictor": "wscore.forecasting.models.predictors",
    "ProjectionHead": "wscore.autoencoder.models.projection",
    "SeriesPredictor": "wscore.forecasting.models.per_weight",
    "SparseAutoencoder": "wscore.sae.model",
    "TiedWeightSparseAutoencoder": "wscore.sae.model",
    "WeightDecoder": "wscore.encoder.decoder",
}
M = TypeVar("M", bound=nn.Module)


def register(model: type[M]) -> type[M]:
    """Register a model class in `MODELS` under its name; return it unchanged."""
    taken = MODELS.get(model.__name__, model)
    assert taken.__module__ == model.__module__, f"two models are called {model.__name__}"
    config_class(model)
    MODELS[model.__name__] = model
    return model


def config_class(model: type[nn.Module]) -> type[Section]:
    """Return the configuration class that a model's `from_config` or `__init__(self, config: ...)` is annotated with."""
    make = getattr(model, "from_config", model.__init__)
    kind = get_type_hints(inspect.unwrap(getattr(make, "__func__", make))).get("config")
    assert isinstance(kind, type), f"{model.__name__} needs an annotated `config`"
    assert issubclass(kind, Section), f"{model.__name__}: the configuration must be a Section"
    return kind


def save_model(folder: Path, model: nn.Module, *, extra: Mapping[str, Any] | None = None) -> None:
    """Write a model as config.json and model.safetensors; other files in the folder are kept.

    Args:
        folder: created if missing.
        model: of a registered class, with its configuration in `.config`.
        extra: further keys of config.json, plain data; none of `RESERVED`.

    Raises:
        ModelError: if the class is not registered or an extra key is reserved.
    """
    name, extra = type(model).__name__, dict(extra or {})
    if MODELS.get(name) is not type(model):
        raise ModelError(
            "class is not registered", where=name, fix="decorate it with wscore.training.model_folder.register"
        )
    clash = sorted(set(extra) & set(RESERVED))
    if clash:
        raise ModelError("extra keys are reserved", where=Path(folder) / CONFIG, got=clash)
    tensors, tied = _untie(model.state_dict())
    write_tensors(Path(folder) / WEIGHTS, tensors, metadata={"format": "pt"})
    head = {
        "format": format_of(type(model)),
        "class": name,
        "config": to_plain(model.config),
        "sha256": _digest(Path(folder) / WEIGHTS),
    }
    write_json(Path(folder) / CONFIG, {**head, "tied": tied, **extra})


def load_model(folder: Path, kind: type[M] = nn.Module) -> M:
    """Return the model in a folder, on the CPU and in evaluation mode.

    Args:
        folder: as written by `save_model`.
        kind: class (or base class) that the model must have.

    Raises:
        ModelError: if a file is missing, altered or unreadable, the format or class is unknown or unexpected, a weight is
            NaN, or the configuration and the weights do not match.
    """
    content = read_model_config(folder)
    named = find_model(content["class"], where=Path(folder) / CONFIG)
    if not issubclass(named, kind):
        raise ModelError("holds a model of another class", where=folder, expected=kind.__name__, got=named.__name__)
    plain = _current(content, named, where=Path(folder) / CONFIG)
    try:
        config = convert(plain, config_class(named), where=f"{Path(folder) / CONFIG}: config")
    except ConfigError as error:
        raise ModelError(f"configuration does not match its class: {error}", where=folder) from error
    tensors = _read_weights(Path(folder), content)
    build = getattr(named, "from_config", named)
    _check_sizes(build, config, tensors, where=folder)
    try:
        model = build(config)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ModelError(f"describes no model that can be built: {error}", where=Path(folder) / CONFIG) from error
    _fill(model, tensors, where=folder)
    return model.eval()


def read_model_config(folder: Path) -> dict[str, Any]:
    """Return config.json of a model folder, extra keys included.

    Raises:
        ModelError: if it is missing, not JSON, of an unknown format or lacks a key.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise ModelError("no model here: config.json is missing", where=folder, fix="run the stage that produces it")
    try:
        content = read_json(path)
    except DataError as error:
        raise ModelError(str(error)) from error
    missing = [key for key in RESERVED if key not in content] if isinstance(content, dict) else list(RESERVED)
    if missing:
        raise ModelError("is not the configuration of a wscore model", where=path, expected=f"the keys {missing}")
    tied = content["tied"]
    if not isinstance(content["class"], str) or not isinstance(content["sha256"], str) or not _are_texts(tied):
        expected = "texts `class` and `sha256`, and `tied` from names to names"
        raise ModelError("is not the configuration of a wscore model", where=path, expected=expected)
    if type(content["format"]) is not int or content["format"] < FORMAT:
        raise ModelError("unknown format", where=path, expected=f"{FORMAT} or more", got=content["format"])
    return content


def model_identities(folders: Mapping[str, Path]) -> dict[str, str]:
    """Return the first 16 hex digits of the SHA-256 of the weights of several models, for the metrics of an evaluation.

    Raises:
        ModelError: if there is no model in a folder.
    """
    return {name: read_model_config(folder)["sha256"][:16] for name, folder in folders.items()}


def format_of(model: type[nn.Module]) -> int:
    """Return the current folder format of a model class."""
    return getattr(model, "folder_format", FORMAT)


def _current(content: Mapping[str, Any], model: type[nn.Module], *, where: Path) -> Any:
    """Return the configuration in a folder, upgraded to the current format."""
    saved, newest = content["format"], format_of(model)
    if saved > newest:
        raise ModelError("unknown format", where=where, expected=f"at most {newest}", got=saved, fix="update wscore")
    if saved == newest:
        return content["config"]
    upgraded = getattr(model, "upgraded", None)
    plain = None if upgraded is None else upgraded(content["config"], saved)
    if plain is None:
        fix = "recreate the model with this version of wscore"
        raise ModelError("is of an older format", where=where, expected=newest, got=saved, fix=fix)
    return plain


def find_model(name: str, *, where: object = None) -> type[nn.Module]:
    """Return the registered class of a name; its module is imported if necessary.

    Raises:
        ModelError: if no class has this name.
    """
    if name not in MODELS and name in HOMES:
        importlib.import_module(HOMES[name])
    if name not in MODELS:
        expected = f"one of {', '.join(sorted({*MODELS, *HOMES}))}"
        raise ModelError("unknown model class", where=where, expected=expected, got=name)
    return MODELS[name]


def _untie(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return each tensor storage once, and a map from tied names to the name under which it is stored."""
    kept: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    names: dict[tuple[Any, ...], str] = {}
    for name, tensor in state.items():
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in names:
            tied[name] = names[place]
        else:
            names[place] = name
            whole = tensor.untyped_storage().nbytes() == tensor.nbytes
            kept[name] = tensor if whole else tensor.clone()
    return kept, tied


def _read_weights(folder: Path, content: Mapping[str, Any]) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelError("model.safetensors is missing", where=folder, fix="run the stage that produces it")
    if _digest(path) != content["sha256"]:
        raise ModelError(
            "does not match the checksum in config.json", where=path, fix="recreate or download the model again"
        )
    try:
        tensors = read_tensors(path)
    except DataError as error:
        raise ModelError(str(error)) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and bool(tensor.isnan().any()):  # infinite floors and thresholds are valid
            raise ModelError("holds NaN", where=f"{path}: {name}", fix="recreate or download the model again")
    return {**tensors, **{name: tensors[source] for name, source in content["tied"].items() if source in tensors}}


class _StepLimit(TorchFunctionMode):
    """Stops the construction of a model that takes far more operations than its weights explain."""

    def __init__(self, most: int, where: object) -> None:
        super().__init__()
        self.left, self.where = most, where

    def __torch_function__(self, operation: Any, kinds: Any, arguments: Any = (), options: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ModelError("configuration describes far more tensors than there are", where=self.where)
        if operation in (Tensor.normal_, nn.init.normal_):  # here it would load the compiler of torch: two seconds
            return arguments[0] if arguments else options["tensor"]
        return operation(*arguments, **(options or {}))


def _check_sizes(
    build: Callable[[Any], nn.Module], config: Section, tensors: Mapping[str, Tensor], *, where: object
) -> None:
    """Reject a configuration of other sizes than the weights, before memory is allocated for it.

    Raises:
        ModelError: naming the first tensor that differs.
    """
    try:
        with torch.device("meta"), _StepLimit(STEPS_PER_TENSOR * len(tensors) + FREE_STEPS, where):
            wanted = {name: tuple(tensor.shape) for name, tensor in build(config).state_dict().items()}
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError("no model can be built from the configuration", where=where, got=reason) from error
    held = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = next((name for name in sorted(wanted.keys() | held.keys()) if wanted.get(name) != held.get(name)), None)
    if wrong is not None:
        expected, got = (shapes.get(wrong, "no such tensor") for shapes in (wanted, held))
        raise ModelError(
            "weights do not match the configuration", where=f"{where}: {wrong}", expected=expected, got=got
        )


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], *, where: object) -> None:
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(
            "weights do not match the configuration", where=where, got=" ".join(str(error).split())
        ) from error


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
