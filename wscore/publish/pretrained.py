"""Loads published models without the pipeline: networks to latents and back, properties, forecasts and sparse codes.

    encoder = PublishedEncoder.from_pretrained("models/published")           # a folder
    encoder = PublishedEncoder.from_pretrained("me/zoo", revision="4f1c...")  # on the Hub, at a pinned commit
    encoder.encode(network.state_dict())

Every class is a `torch.nn.Module` and a `PyTorchModelHubMixin`: `from_pretrained`, `save_pretrained`, `push_to_hub`.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, TypeVar, get_args

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Float
from torch import Tensor, nn

from wscore.autoencoder.models.autoencoder import Decoder, Encoder
from wscore.errors import ModelError, WscoreWarning
from wscore.forecasting.models.predictors import WeightPredictor
from wscore.heads.ensemble import Blend
from wscore.heads.features import network_features
from wscore.heads.train import Task, load_head, read
from wscore.hub.checksums import CHECKSUMS, read_checksums, verify, write_checksums
from wscore.hub.client import download
from wscore.hub.fetch import Source, exists, fetch, parse_source
from wscore.hub.upload import Upload, upload
from wscore.io import atomic_file, write_text
from wscore.networks.architectures import parse
from wscore.networks.layout import Layout, layout_of, read_layouts
from wscore.sae.model import SparseModel
from wscore.sae.rows import Scatter, UnitMap, unit_map
from wscore.tokens.alignment import Alignment
from wscore.tokens.batch import TokenBatch
from wscore.tokens.codec import TokenCodec
from wscore.tokens.normalizer import Normalizer
from wscore.tokens.tokenizer import Tokenizer
from wscore.training.model_folder import CONFIG, RESERVED, WEIGHTS, load_model, read_model_config, save_model

P = TypeVar("P", bound="Published")
TOGETHER = 256  # sequences per encoding batch
NAMED = 8  # layouts that an error names
FARTHEST = 8.0  # root mean square of normalized weights, 1 in training
CARD = """---
library_name: wscore
tags: [wscore, weight-space-learning]
---

# {name}

Load it with `wscore.{name}.from_pretrained(...)`.
"""
VIEWS = ("representations", "tokens", "neurons", "weights")  # inputs of a dictionary


class Layouts:
    """The layouts that a model was trained on.

    A file may store tensors in another order than the network (safetensors sorts them), which would look like an
    unknown layout.

    Args:
        folder: with layouts.json.
    """

    def __init__(self, folder: Path) -> None:
        path = Path(folder) / "layouts.json"
        self.known = read_layouts(path) if path.is_file() else {}
        self._by_shapes = {_shapes(layout): layout for layout in self.known.values()}

    def __contains__(self, layout: Layout) -> bool:
        return _shapes(layout) in self._by_shapes

    def ordered(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict in the order of the known layout with the same names and shapes, else unchanged."""
        known = self._by_shapes.get(_shapes(layout_of(state)))
        if known is None:
            return dict(state)
        return {name: state[name] for name in (*(spec.name for spec in known.tensors), *known.counters)}

    def check(self, layout: Layout) -> None:
        """Refuse a layout that the model was not trained on.

        Raises:
            ModelError: if so, with the layouts that it knows.
        """
        if layout.identity in self.known:
            return
        sizes = sorted({(known.size, len(known.tensors)) for known in self.known.values()})
        shown = ", ".join(f"{_size(*size)}" for size in sizes[:NAMED]) + (", ..." if len(sizes) > NAMED else "")
        raise ModelError(
            "the autoencoder was not trained on networks with these names and shapes of tensors",
            expected=f"one of its {len(self.known)} layouts ({shown})", got=_size(layout.size, len(layout.tensors)),
            fix="`wscore compress` takes any network",
        )  # fmt: skip


class Published(nn.Module, PyTorchModelHubMixin, library_name="wscore"):
    """A model in a self-contained folder.

    Args:
        folder: of one published model; all files are checked against checksums.json.

    Attributes:
        model: the network.
        identity: hash of its weights.
        facts: content of config.json other than the configuration.
        beside: other files of the folder, such as tokenizer and normaliser.

    Raises:
        ModelError: if the folder holds another kind of model, was altered, or is of an unknown format.
    """

    part: ClassVar[str] = ""
    kind: ClassVar[type[nn.Module]] = nn.Module

    def __init__(self, folder: Path | str) -> None:
        super().__init__()
        verify(Path(folder))
        self.model: Any = load_model(Path(folder), self.kind)
        content = read_model_config(Path(folder))
        self.identity: str = content["sha256"]
        self.facts = {key: value for key, value in content.items() if key not in RESERVED}
        others = [name for name in read_checksums(Path(folder)) if name not in (CONFIG, WEIGHTS, "README.md")]
        self.beside = {name: (Path(folder) / name).read_bytes() for name in others if (Path(folder) / name).is_file()}
        card = Path(folder) / "README.md"
        self.card = card.read_text(encoding="utf-8") if card.is_file() else CARD.format(name=type(self).__name__)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls: type[P], source: Path | str, *, revision: str | None = None, part: str | None = None, **client: Any
    ) -> P:
        """Return the model in a folder or on the Hub, in evaluation mode on the CPU.

        Args:
            source: a folder, `owner/name` or `owner/name@revision`.
            revision: commit, tag or branch on the Hub; null: the newest.
            part: folder within the source, if it holds several models; null: the default.
            client: `cache_dir`, `force_download`, `local_files_only` and `token` of `huggingface_hub`.

        Raises:
            PublishError: if the id is malformed.
            DataError: if the Hub refuses or can't be reached.
            ModelError: if there is no such model, or it was altered or is of another class or format.
        """
        return cls(fetch(source, revision, part=cls.part if part is None else part, **client)).eval()

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write all files of the model."""
        save_model(save_directory, self.model, extra=self.facts)
        for name, content in self.beside.items():
            with atomic_file(save_directory / name) as temporary:
                temporary.write_bytes(content)
        write_text(save_directory / "README.md", self.card)
        write_checksums(save_directory)

    def push_to_hub(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, repo_id: str, *, private: bool = True
    ) -> str:
        """Upload the model to its own repository with the token in `HF_TOKEN`, and return the URL of the commit.

        Raises:
            PublishError: if the id is malformed, the token is missing, or the Hub can't be reached or refuses.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload([Upload(repo_id, Path(folder))], private=private)[0]


class PublishedEncoder(Published):
    """Encodes networks as latents."""

    part = "encoder"
    kind = Encoder

    def __init__(self, folder: Path | str) -> None:
        super().__init__(folder)
        self.layouts = Layouts(Path(folder))
        self.codec = TokenCodec.load(Path(folder), self.model.config.network.max_tokens)
        self.alignment = Alignment.load(Path(folder))

    def encode(self, state: Mapping[str, Tensor]) -> Float[Tensor, " latent"]:
        """Return the latent of a state dict for heads: the mean over its windows."""
        return self.encode_windows(state).mean(dim=0)

    def encode_windows(self, state: Mapping[str, Tensor]) -> Float[Tensor, "window latent"]:
        """Return one latent per window of a network (long networks have several), as input for the decoder.

        Hidden units are first aligned to the reference of the layout, if there is one.

        Raises:
            ModelError: if the network has weights that are not finite, or a layout that the encoder was not trained on.
        """
        layout = layout_of(self.layouts.ordered(state))
        return self.encode_many(layout, layout.flatten(state)[None])[0]

    @torch.no_grad()
    def encode_many(
        self, layout: Layout, vectors: Float[np.ndarray, "networks weights"]
    ) -> Float[Tensor, "networks window latent"]:
        """Return the latents of many networks of one layout, given as flat weights.

        Raises:
            ModelError: if a network has weights that are not finite, or the encoder was not trained on the layout.
        """
        self.layouts.check(layout)
        check_finite(vectors)
        windows = len(self.codec.windows(layout))
        step = max(1, TOGETHER // windows)
        parts = [vectors[start : start + step] for start in range(0, len(vectors), step)]
        latents = [self.model(self.codec.encode(layout, self.alignment.apply(layout, part))) for part in parts]
        return torch.cat(latents).unflatten(0, (len(vectors), windows))  # (n, W, Z)


class PublishedDecoder(Published):
    """Decodes latents to networks."""

    part = "decoder"
    kind = Decoder

    def __init__(self, folder: Path | str) -> None:
        super().__init__(folder)
        self.layouts = Layouts(Path(folder))
        self.codec = TokenCodec.load(Path(folder), self.model.config.network.max_tokens)
        self.alignment = Alignment.load(Path(folder))

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "window latent"], layout: Layout) -> dict[str, Tensor]:
        """Return the decoded state dict, from one latent per window of a network of this layout.

        Raises:
            ModelError: if the decoder was not trained on the layout, the number of windows does not fit it, or the latents
                have another length.
        """
        self.layouts.check(layout)
        windows, size = len(self.codec.windows(layout)), self.model.config.network.latent_dim
        if latents.shape != (windows, size):
            expected = f"{windows} x {size}: one per window"
            got = " x ".join(map(str, latents.shape))
            raise ModelError("latents do not fit the layout", expected=expected, got=got)
        frame = self.codec.encode(layout, np.zeros((1, layout.size), np.float32))
        return layout.unflatten(self.codec.decode(layout, self.model(latents, frame))[0])


class PublishedHead(Published):
    """Predicts properties of networks.

    Args:
        folder: of a published head.
        encoder: with which the head was trained.

    Raises:
        ModelError: if the folder holds no head, or the head was trained with another encoder.
    """

    part = "heads"
    kind = Blend

    def __init__(self, folder: Path | str, encoder: PublishedEncoder) -> None:
        super().__init__(folder)
        self.head, self.encoder = load_head(Path(folder)), encoder
        if self.head.encoder != encoder.identity:
            raise ModelError(
                "reads latents of another encoder", where=folder, expected=self.head.encoder, got=encoder.identity
            )

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, source: Path | str, *, encoder: PublishedEncoder, part: str, revision: str | None = None, **client: Any
    ) -> "PublishedHead":
        """Return a head in a folder or on the Hub: see `Published.from_pretrained`; `part` is such as `heads/accuracy`."""
        return cls(fetch(source, revision, part=part, **client), encoder).eval()

    @torch.no_grad()
    def read(self, state: Mapping[str, Tensor], architecture: str | None = None) -> dict[str, Any]:
        """Return the predicted properties of a state dict by name: boolean, number or class name.

        Numbers have the bounds of their prediction interval, `<name>_low` and `<name>_high`.

        Args:
            state: of the network.
            architecture: JSON text of it; without it the network is not run on the head's probe images.

        Raises:
            ModelError: if the network has weights that are not finite, or too many for a head with token inputs, or the
                head reads latents and the encoder was not trained on the layout.
        """
        state = self.encoder.layouts.ordered(state)
        layout = layout_of(state)
        vector = layout.flatten(state)
        check_finite(vector[None])
        self._warn_of_distance(layout, vector)
        known = parse(architecture) if architecture else None
        blocks = network_features(layout, vector, self.head.features, self.head.probes, known)
        parts = [
            self.encoder.encode(state).numpy()[None] if name == "latent" else blocks[name].values
            for name in self.head.features
        ]
        inputs = np.concatenate([np.zeros((1, 0), np.float32), *parts], axis=1)
        if inputs.shape[1] != self.head.model.inputs:
            expected, got = f"{self.head.model.inputs} features", inputs.shape[1]
            raise ModelError("the head does not fit its encoder", where=self.head.task, expected=expected, got=got)
        tokens = self._tokens(layout, vector) if self.head.model.reads_tokens else None
        answers = self.head.model(torch.from_numpy(inputs), tokens)
        table = read(self.head, {name: answer.numpy() for name, answer in answers.items()})
        return {str(name): table[name].tolist()[0] for name in table.columns}

    def _warn_of_distance(self, layout: Layout, vector: Float[np.ndarray, " weights"]) -> None:
        """Warn of a network unlike those of the training, for which predictions and intervals promise nothing."""
        normalized = self.encoder.codec.normalizer.normalize(layout, vector)
        size = math.sqrt(float(np.square(normalized, dtype=np.float64).mean()))
        reason = (
            f"no network with these {len(layout.tensors)} tensors was" if layout not in self.encoder.layouts else ""
        )
        if size > FARTHEST:
            reason = f"weights {size:.3g} times as large as usual were not"
        if reason:
            message = f"{reason} in the training of this head: its predictions and intervals may be far off"
            warnings.warn(message, WscoreWarning, stacklevel=3)

    def _tokens(self, layout: Layout, vector: Float[np.ndarray, " weights"]) -> TokenBatch:
        if len(self.encoder.codec.windows(layout)) > 1:
            raise ModelError("network is too long for a head with token inputs", got=f"{layout.size} weights")
        return self.encoder.codec.encode(layout, self.encoder.alignment.apply(layout, vector[None]))


class PublishedPredictor(Published):
    """Forecasts the weights of a network from its last snapshots."""

    part = "predictor"
    kind = WeightPredictor

    def forecast(
        self, history: Sequence[Mapping[str, Tensor]], horizons: int | Sequence[int]
    ) -> list[dict[str, Tensor]]:
        """Return the state dicts some steps after the last of some equally spaced snapshots, oldest first.

        Args:
            history: state dicts of one network.
            horizons: steps ahead; a number K stands for 1, .., K.

        Raises:
            ModelError: if the history is too short, of several layouts, or does not fit the predictor, or a horizon was
                not trained.
        """
        if not history:
            raise ModelError("too few snapshots to forecast from", got=0)
        layout = layout_of(history[0])
        if any(layout_of(state) != layout for state in history):
            raise ModelError("the snapshots belong to different networks", expected="one layout")
        vectors = torch.from_numpy(np.stack([layout.flatten(state) for state in history]))
        steps = horizons if isinstance(horizons, int) else list(horizons)
        return [layout.unflatten(one) for one in self.model.predict(vectors, layout, steps)]


class PublishedDictionary(Published):
    """Decomposes networks into sparse features, and reconstructs them."""

    part = "sparse_dictionary"
    kind = SparseModel

    def __init__(self, folder: Path | str) -> None:
        super().__init__(folder)
        self.view: Any = self.facts.get("input", "tokens")
        if self.view not in VIEWS:
            raise ModelError("is not the input of a dictionary", where=folder, expected=VIEWS, got=self.view)
        self.tokenizer = Tokenizer.load(Path(folder) / "tokenizer.json")
        self.normalizer = Normalizer.load(Path(folder) / "normalizer.json")
        self.alignment = Alignment.load(Path(folder))
        self.layouts = Layouts(Path(folder))

    @torch.no_grad()
    def encode(self, state: Mapping[str, Tensor]) -> Float[Tensor, "unit latent"]:
        """Return the codes of each unit of a network (token, hidden unit, or the whole network).

        Hidden units are first aligned to the reference of the layout, if there is one.

        Raises:
            ModelError: if the network has weights that are not finite, or the dictionary was made for latents.
            DataError: if the hidden units of the layout are unknown.
        """
        layout = layout_of(self.layouts.ordered(state))
        units, vector = self._units(layout), layout.flatten(state)
        check_finite(vector)
        aligned = self.normalizer.normalize(layout, self.alignment.apply(layout, vector[None]))[0]
        mask = units.weights >= 0
        values = np.where(mask, aligned[units.weights], np.float32(0))
        return self.model.encode(torch.from_numpy(values), torch.from_numpy(mask))

    @torch.no_grad()
    def decode(self, codes: Float[Tensor, "unit latent"], layout: Layout) -> dict[str, Tensor]:
        """Return the state dict decoded from codes; weights outside of units become the mean of their tensor.

        Raises:
            ModelError: if the number of codes does not fit the units of the layout, or weights are not finite.
        """
        units = self._units(layout)
        if len(codes) != len(units.weights):
            raise ModelError("codes do not fit the layout", expected=f"{len(units.weights)} units", got=len(codes))
        scatter = Scatter(units, layout, self.normalizer)
        with np.errstate(over="ignore", invalid="ignore"):
            vector = scatter(self.model.decode(codes).numpy()[None], self.normalizer.statistics(layout)[0])
        if not np.isfinite(vector).all():
            raise ModelError("decoded weights are not finite", where=self.part, fix="get the model folder again")
        return layout.unflatten(torch.from_numpy(vector[0]))

    def _units(self, layout: Layout) -> UnitMap:
        if self.view == "representations":
            fix = "encode the network first, then use `model.encode`"
            raise ModelError("was made for latents, not for weights", fix=fix)
        units = unit_map(self.view, layout, self.tokenizer, self.alignment.specs.get(layout.identity))
        width = self.model.config.input_dim
        if units.weights.shape[1] > width:
            raise ModelError("units are wider than the dictionary", expected=f"<= {width}", got=units.weights.shape[1])
        return units.padded(width)


def head_parts(source: Path | str, names: Sequence[str] | None = None) -> dict[str, Path]:
    """Return the folders of the heads in a publication by name: of the requested ones, or all.

    Heads in separate repositories, `<source>-heads-<name>`, are requested one by one.

    Raises:
        PublishError: if the source is malformed.
        DataError: if the Hub refuses or can't be reached.
        ModelError: if there is no such head, listing the available ones.
    """
    found = parse_source(source)
    folder = Path(found.name)
    if not folder.is_dir() and found.revision is None and not exists(found):
        alone = {name: Source(f"{found.name}-heads-{name}", None) for name in get_args(Task)}
        there: dict[str, Source | Path] = {name: one for name, one in alone.items() if exists(one)}
    else:
        if not folder.is_dir():
            folder = download(found.name, found.revision, patterns=["heads/*", CHECKSUMS])
        there = {path.parent.name: path.parent for path in sorted(folder.glob("heads/*/config.json"))}
    wrong = sorted(set(names or ()) - set(there))
    if wrong or not there:
        expected = ", ".join(there) or "heads/NAME"
        raise ModelError("no such head", where=source, expected=expected, got=", ".join(wrong) or "none")
    chosen = {name: place for name, place in there.items() if names is None or name in names}
    return {name: fetch(place.name) if isinstance(place, Source) else place for name, place in chosen.items()}


def check_finite(vectors: Float[np.ndarray, "*networks weights"]) -> None:
    """Raise ModelError with their number if networks have non-finite weights."""
    wrong = int((~np.isfinite(vectors)).sum())
    if wrong:
        raise ModelError("network has weights that are not finite", got=wrong)


def _size(weights: int, tensors: int) -> str:
    return f"{weights:,} weights in {tensors} tensors"


def _shapes(layout: Layout) -> frozenset[tuple[str, tuple[int, ...]]]:
    return frozenset([*((spec.name, spec.shape) for spec in layout.tensors), *layout.counters.items()])
