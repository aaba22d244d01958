"""Loads published models without the pipeline: networks to latents and back, properties, forecasts and sparse codes.

    encoder = PublishedEncoder.from_pretrained("models/published")           # a folder
    encoder = PublishedEncoder.from_pretrained("me/zoo", revision="4f1c...")  # on the Hub, at a pinned commit
    encoder.encode(network.state_dict())

Every class is a `torch.nn.Module` and a `PyTorchModelHubMixin`: `from_pretrained`, `save_pretrained`, `push_to_hub`.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, TypeVar, get_args

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Float
from torch import Tensor, nn

from wscore.autoencoder.models.autoencoder import Decoder, Encoder
from wscore.encoder.features import select
from wscore.encoder.known_architecture import known_outputs, true_hypothesis
from wscore.encoder.weight_encoder import OUTSIDE, UNLIKE, NetworkFeatures, WeightEncoder
from wscore.encoder.weight_statistics import FeatureTable
from wscore.errors import DataError, ModelError, WscoreWarning
from wscore.forecasting.models.predictors import WeightPredictor
from wscore.heads.dataset import PROBES
from wscore.heads.ensemble import Blend
from wscore.heads.train import Task, load_head, read
from wscore.hub.checksums import CHECKSUMS, read_checksums, verify, write_checksums
from wscore.hub.client import download
from wscore.hub.fetch import Source, exists, fetch, parse_source
from wscore.hub.upload import Upload, upload
from wscore.io import atomic_file, write_text
from wscore.networks.known_layouts import KnownLayouts, Match
from wscore.networks.layout import Layout, layout_of
from wscore.sae.model import SparseModel
from wscore.sae.rows import Scatter, UnitMap, unit_map
from wscore.tokens.alignment import Alignment
from wscore.tokens.batch import TokenBatch
from wscore.tokens.codec import TokenCodec
from wscore.tokens.normalizer import Normalizer
from wscore.tokens.tokenizer import Tokenizer
from wscore.training.model_folder import CONFIG, RESERVED, WEIGHTS, load_model, read_model_config, save_model
from wscore.zoo.state import described, history_of, state_of

P = TypeVar("P", bound="Published")
TOGETHER = 256  # sequences per encoding batch
CARD = """---
library_name: wscore
tags: [wscore, weight-space-learning]
---

# {name}

Load it with `wscore.{name}.from_pretrained(...)`.
"""
VIEWS = ("representations", "tokens", "neurons", "weights")  # inputs of a dictionary


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


class EncodedNetwork(NamedTuple):
    """What `decode` rebuilds a network from.

    Attributes:
        latents: one per window; a single one unless the network is long.
        layout: names, shapes and order of its tensors.
        orders: of its hidden units, by group, in which it was encoded; empty if they were not aligned.
    """

    latents: Float[Tensor, "window latent"]
    layout: Layout
    orders: Mapping[str, Tensor] = MappingProxyType({})


class PublishedEncoder(Published):
    """Encodes networks as latents."""

    part = "encoder"
    kind = Encoder

    def __init__(self, folder: Path | str) -> None:
        super().__init__(folder)
        self.layouts = KnownLayouts.read(Path(folder))
        self.codec = TokenCodec.load(Path(folder), self.model.config.network.max_tokens)
        self.alignment = Alignment.load(Path(folder))

    def encode(self, network: object) -> EncodedNetwork:
        """Return a network (see `wscore.zoo.state.state_of`) as latents: one per window, as input for the decoder.

        Hidden units are first aligned to the reference of the layout, if there is one.

        Raises:
            DataError: if it is no network.
            ModelError: if the network has weights that are not finite, or a layout that the encoder was not trained on.
        """
        state = state_of(network)
        layout = layout_of(state)
        match = self.layouts.require(layout)
        vectors, orders = aligned(self.alignment, match.known, match.flatten(state)[None])
        return EncodedNetwork(self._encode_aligned(match.known, vectors)[0], layout, orders)

    def encode_many(
        self, layout: Layout, vectors: Float[np.ndarray, "networks weights"]
    ) -> Float[Tensor, "networks window latent"]:
        """Return the latents of many networks of one layout, given as flat weights.

        Raises:
            ModelError: if a network has weights that are not finite, or the encoder was not trained on the layout.
        """
        self.layouts.require(layout)
        return self._encode_aligned(layout, aligned(self.alignment, layout, vectors)[0])

    @torch.no_grad()
    def _encode_aligned(
        self, layout: Layout, vectors: Float[np.ndarray, "networks weights"]
    ) -> Float[Tensor, "networks window latent"]:
        windows = len(self.codec.windows(layout))
        step = max(1, TOGETHER // windows)
        parts = [vectors[start : start + step] for start in range(0, len(vectors), step)]
        latents = [self.model(self.codec.encode(layout, part)) for part in parts]
        return torch.cat(latents).unflatten(0, (len(vectors), windows))  # (n, W, Z)


class PublishedDecoder(Published):
    """Decodes latents to networks."""

    part = "decoder"
    kind = Decoder

    def __init__(self, folder: Path | str) -> None:
        super().__init__(folder)
        self.layouts = KnownLayouts.read(Path(folder))
        self.codec = TokenCodec.load(Path(folder), self.model.config.network.max_tokens)
        self.alignment = Alignment.load(Path(folder))

    @torch.no_grad()
    def decode(self, latents: Any, layout: object = None) -> dict[str, Tensor]:
        """Return the decoded state dict, in the names and the order of the layout, and the order of units of what was encoded.

        Args:
            latents: as `encode` returns them, or one latent per window.
            layout: of the network, or a network of this layout; None: that of the encoded network.

        Raises:
            ModelError: if the decoder was not trained on the layout, the number of windows does not fit it, or the latents
                have another length.
        """
        latents, wanted, orders = _with_layout(latents, layout)
        match = self.layouts.require(wanted)
        layout = match.known
        windows, size = len(self.codec.windows(layout)), self.model.config.network.latent_dim
        if latents.shape != (windows, size):
            expected = f"{windows} x {size}: one per window"
            got = " x ".join(map(str, latents.shape))
            raise ModelError("latents do not fit the layout", expected=expected, got=got)
        frame = self.codec.encode(layout, np.zeros((1, layout.size), np.float32))
        vectors = self.codec.decode(layout, self.model(latents, frame)).numpy()
        return match.unflatten(restored(self.alignment, layout, vectors, orders), wanted)


class PublishedHead(Published):
    """Predicts properties of networks.

    Args:
        folder: of a published head.
        encoder: with which the head was trained.
        autoencoder: encoder whose tokenizer a head with token inputs needs.

    Raises:
        ModelError: if the folder holds no head, or the head was trained with another encoder.
    """

    part = "heads"
    kind = Blend

    def __init__(self, folder: Path | str, encoder: WeightEncoder, autoencoder: PublishedEncoder | None = None) -> None:
        super().__init__(folder)
        self.head, self.encoder, self.autoencoder = load_head(Path(folder)), encoder, autoencoder
        if self.head.encoder != encoder.identity:
            raise ModelError(
                "reads latents of another encoder", where=folder, expected=self.head.encoder, got=encoder.identity
            )
        wanted = sum(map(len, self.head.features.values()))
        if self.head.model.inputs != wanted:
            raise ModelError(
                "names other features than it reads", where=folder, expected=self.head.model.inputs, got=wanted
            )

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        source: Path | str,
        *,
        encoder: WeightEncoder,
        part: str,
        autoencoder: PublishedEncoder | None = None,
        revision: str | None = None,
        **client: Any,
    ) -> "PublishedHead":
        """Return a head in a folder or on the Hub: see `Published.from_pretrained`; `part` is such as `heads/accuracy`."""
        return cls(fetch(source, revision, part=part, **client), encoder, autoencoder).eval()

    @property
    def features(self) -> list[str]:
        """Names of the features that the head reads besides latents."""
        return [name for block, names in self.head.features.items() if block != "latent" for name in names]

    @torch.no_grad()
    def predict(self, network: object, *, architecture: str = "") -> dict[str, Any]:
        """Return the predicted properties of a network by name: boolean, number or class name.

        Args:
            network: see `wscore.zoo.state.state_of`; or what `WeightEncoder.read` returns, if several heads read it.
            architecture: its description as JSON (`wscore.networks.architectures`), which makes the accuracy more certain;
                without use for other heads.

        Numbers have the bounds of their prediction interval, `<name>_low` and `<name>_high`. Networks that are unlike those
        of the training have no intervals, and a warning says so.

        Raises:
            DataError: naming the tensor, if weights are missing, empty, not floating-point or not finite.
            ModelError: if a head with token inputs lacks the autoencoder, or the network is too long for it.
        """
        if not isinstance(network, NetworkFeatures):
            network = self.encoder.read(network, more=self.features)
        layout, vectors, numbers, encoding = network
        informed = bool(self.head.informed and true_hypothesis(architecture))
        parts = [
            encoding.latents.numpy()[None] if block == "latent" else select(numbers, names, 1)
            for block, names in self.head.features.items()
        ]
        if informed:
            place = list(self.head.features).index(PROBES)
            parts[place] = known_outputs(FeatureTable(parts[place], self.head.features[PROBES]), [architecture])
        inputs = np.concatenate([np.zeros((1, 0), np.float32), *parts], axis=1)
        tokens = self._tokens(layout, vectors) if self.head.model.reads_tokens else None
        outputs = self.head.model(torch.from_numpy(inputs), tokens)
        columns = read(self.head, {name: output.numpy() for name, output in outputs.items()}, informed=informed)
        properties = {name: column.tolist()[0] for name, column in columns.items()}
        inside = float(encoding.inside)
        if inside > OUTSIDE:
            return properties
        message = f"{UNLIKE.format(inside=inside)}: predictions may be far off and have no intervals"
        warnings.warn(message, WscoreWarning, stacklevel=2)
        return {name: value for name, value in properties.items() if not name.endswith(("_low", "_high"))}

    def _tokens(self, layout: Layout, vectors: Float[np.ndarray, "1 weights"]) -> TokenBatch:
        if self.autoencoder is None:
            raise ModelError(
                "a head with token inputs needs the autoencoder", where=self.head.task, fix="pass `autoencoder`"
            )
        codec = self.autoencoder.codec
        if len(codec.windows(layout)) > 1:
            raise ModelError("network is too long for a head with token inputs", got=f"{layout.size} weights")
        return codec.encode(layout, self.autoencoder.alignment.apply(layout, vectors))


class PublishedPredictor(Published):
    """Forecasts the weights of a network from its last snapshots."""

    part = "predictor"
    kind = WeightPredictor

    def forecast(
        self, history: Any, horizons: int | Sequence[int], layout: Layout | None = None
    ) -> list[dict[str, Tensor]]:
        """Return the state dicts some steps after the last of some equally spaced snapshots, oldest first.

        Args:
            history: snapshots of one network (see `wscore.zoo.state.state_of`), or their weights as an array or tensor
                (snapshots, weights).
            horizons: steps ahead; a number K stands for 1, .., K.
            layout: of the weights in an array.

        Raises:
            ModelError: if the history is too short, of several layouts, or does not fit the predictor, or a horizon was
                not trained.
        """
        if layout is None:
            states = [state_of(network) for network in history_of(history)]
            if not states:
                raise ModelError("too few snapshots to forecast from", got=0)
            layout = layout_of(states[0])
            if any(layout_of(state) != layout for state in states):
                raise ModelError("the snapshots belong to different networks", expected="one layout")
            history = np.stack([layout.flatten(state) for state in states])
        vectors = torch.as_tensor(history, dtype=torch.float32)
        steps = horizons if isinstance(horizons, int) else list(horizons)
        return [layout.unflatten(vector) for vector in self.model.predict(vectors, layout, steps)]


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
        self.layouts = KnownLayouts.read(Path(folder))

    @torch.no_grad()
    def encode(self, network: object) -> EncodedNetwork:
        """Return the codes of each unit of a network (token, hidden unit, or the whole network): one row per unit.

        Hidden units are first aligned to the reference of the layout, if there is one.

        Raises:
            ModelError: if the network has weights that are not finite, or the dictionary was made for latents.
            DataError: if the hidden units of the layout are unknown.
        """
        state = state_of(network)
        wanted = layout_of(state)
        match = self._match(wanted)
        layout, vector = match.known, match.flatten(state)
        units = self._units(layout)
        vectors, orders = aligned(self.alignment, layout, vector[None])
        normal, mask = self.normalizer.normalize(layout, vectors)[0], units.weights >= 0
        values = np.where(mask, normal[units.weights], np.float32(0))
        return EncodedNetwork(self.model.encode(torch.from_numpy(values), torch.from_numpy(mask)), wanted, orders)

    @torch.no_grad()
    def decode(self, codes: Any, layout: object = None) -> dict[str, Tensor]:
        """Return the state dict decoded from codes; weights outside of units become the mean of their tensor.

        Args:
            codes: as `encode` returns them, or one row per unit.
            layout: of the network, or a network of this layout; None: that of the encoded network.

        Raises:
            ModelError: if the number of codes does not fit the units of the layout, or weights are not finite.
        """
        codes, wanted, orders = _with_layout(codes, layout)
        match = self._match(wanted)
        layout = match.known
        units = self._units(layout)
        if len(codes) != len(units.weights):
            raise ModelError("codes do not fit the layout", expected=f"{len(units.weights)} units", got=len(codes))
        scatter = Scatter(units, layout, self.normalizer)
        with np.errstate(over="ignore", invalid="ignore"):
            vector = scatter(self.model.decode(codes).numpy()[None], self.normalizer.statistics(layout)[0])
        if not np.isfinite(vector).all():
            raise ModelError("decoded weights are not finite", where=self.part, fix="get the model folder again")
        return match.unflatten(restored(self.alignment, layout, vector, orders), wanted)

    def _match(self, layout: Layout) -> Match:
        """Return the training network of a layout, or the layout: dictionaries of tokens take networks of any."""
        return self.layouts.match(layout) or Match(layout, {spec.name: spec.name for spec in layout.tensors})

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
    published = parse_source(source)
    folder = Path(published.name)
    if not folder.is_dir() and published.revision is None and not exists(published):
        alone = {name: Source(f"{published.name}-heads-{name}", None) for name in get_args(Task)}
        there: dict[str, Source | Path] = {name: head for name, head in alone.items() if exists(head)}
    else:
        if not folder.is_dir():
            folder = download(published.name, published.revision, patterns=["heads/*", CHECKSUMS])
        there = {path.parent.name: path.parent for path in sorted(folder.glob("heads/*/config.json"))}
    wrong = sorted(set(names or ()) - set(there))
    if wrong or not there:
        expected = ", ".join(there) or "heads/NAME"
        raise ModelError("no such head", where=source, expected=expected, got=", ".join(wrong) or "none")
    chosen = {name: place for name, place in there.items() if names is None or name in names}
    return {name: fetch(place.name) if isinstance(place, Source) else place for name, place in chosen.items()}


def aligned(
    alignment: Alignment, layout: Layout, vectors: Float[np.ndarray, "networks weights"]
) -> tuple[Float[np.ndarray, "networks weights"], dict[str, Tensor]]:
    """Return networks with their hidden units in the order of the reference, and these orders; unchanged without one.

    Raises:
        ModelError: if weights are not finite.
    """
    check_finite(vectors)
    if layout.identity not in alignment.references or not len(vectors):
        return vectors, {}
    orders = alignment.match(layout, vectors)
    return alignment.permute(layout, vectors, orders), orders


def restored(
    alignment: Alignment, layout: Layout, vectors: Float[np.ndarray, "1 weights"], orders: Mapping[str, Tensor]
) -> Float[Tensor, " weights"]:
    """Return a network with its hidden units as they were before `aligned`."""
    back = {group: order.argsort(dim=-1) for group, order in orders.items()}
    return torch.from_numpy(alignment.permute(layout, vectors, back) if back else vectors)[0]


def _with_layout(latents: Any, layout: object) -> tuple[Tensor, Layout, Mapping[str, Tensor]]:
    """Return latents, layout and orders of units from what `decode` is given.

    Raises:
        DataError: if the layout is missing, or the latents are neither a tensor nor an encoded network.
    """
    orders: Mapping[str, Tensor] = {}
    if isinstance(latents, EncodedNetwork):
        latents, known, orders = latents
        layout = known if layout is None else layout
    if isinstance(latents, np.ndarray):
        latents = torch.as_tensor(latents, dtype=torch.float32)
    if not isinstance(latents, Tensor):
        expected = "what `encode` returns, or a tensor with one row per window or unit"
        raise DataError("can't be decoded", where="latents", expected=expected, got=described(latents))
    if layout is None:
        fix = "decode what `encode` returns, or name a network of the same layout"
        raise DataError("latents alone don't tell the layout of the network", where="layout", fix=fix)
    return latents, layout if isinstance(layout, Layout) else layout_of(state_of(layout)), orders


def check_finite(vectors: Float[np.ndarray, "*networks weights"]) -> None:
    """Raise ModelError with their number if networks have non-finite weights."""
    wrong = int((~np.isfinite(vectors)).sum())
    if wrong:
        raise ModelError("network has weights that are not finite", got=wrong)
