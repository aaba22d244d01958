"""One small code for networks of every width and layout."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wscore.autoencoder.coding import one_step, own_steps
from wscore.autoencoder.coding.blocks import Block, Structure
from wscore.autoencoder.coding.config import CodecConfig
from wscore.autoencoder.coding.coordinates import Coordinates
from wscore.autoencoder.coding.curvature import MOST
from wscore.autoencoder.coding.fit import Population, fit_roles
from wscore.autoencoder.coding.format import REFERENCE_HASH, Content, Mode, check_size, pack_file, unpack_file
from wscore.autoencoder.coding.gains import Gains, check_gains
from wscore.autoencoder.coding.layouts import Entries, LayoutTable
from wscore.autoencoder.coding.own_inputs import Inputs, Run, loaded, run_alone, saved
from wscore.autoencoder.coding.problem import Originals, SearchConfig
from wscore.autoencoder.coding.quantise import dequantise, quantise, soft_bits
from wscore.autoencoder.coding.roles import OCTAVE, Role, find_role
from wscore.autoencoder.coding.running import answer_of
from wscore.autoencoder.coding.state import (
    Exact,
    Network,
    State,
    check_same,
    entries_of,
    entries_of_layout,
    exact_values,
    layout_of_entries,
    network_state,
    rebuild_state,
    weights_of,
)
from wscore.config import convert, to_plain
from wscore.errors import DataError, ModelError
from wscore.io import read_json, read_tensors, write_json, write_tensors
from wscore.networks.architectures import Architecture, parse
from wscore.networks.inference import Answer
from wscore.networks.layout import Layout, layout_of
from wscore.zoo.state import state_of

CONFIG, WEIGHTS = "config.json", "codec.safetensors"
FORMAT = 2  # of the folder; 1 had no gains
MOST_OWN = 1 << 22  # weights up to which steps for each tensor are tried: adaptive tables are slow
TOGETHER = 64  # networks that are coded at once
CURVED = 1 << 27  # numbers of the matrices of curvature that are held at once
DOUBT = 1.5  # how much nearer an own code must be than that of the zoo, where outputs are not compared
ROUNDED, RUN = SearchConfig(steps=0), SearchConfig()
TENSORS = ("matrix", "log_stds", "mean")  # of a role


class RateDistortion(NamedTuple):
    """Networks as they come back, with gradients, and what they take.

    Attributes:
        vectors: decoded weights.
        bits: of each network, but for the header of its file.
    """

    vectors: Float[Tensor, "n weights"]
    bits: Float[Tensor, " n"]


class WeightCodec:
    """Compresses networks: coordinates of their weights as whole numbers, packed by a range coder.

    Coordinates and their statistics come from a zoo, by the role that weights play, for networks of every width. Without a
    zoo, or for networks unlike any in it, they come from the network itself.

    Args:
        config: what it knows.
        roles: statistics by role.
        gains: of each structure, see `gains`.
        inputs: on which networks of the zoo's architectures are run that come without images.

    >>> network = torch.nn.Linear(64, 32)
    >>> codec = WeightCodec()
    >>> data = codec.compress(network, ratio=10.0)
    >>> len(data) <= 4 * (64 * 32 + 32) / 10
    True
    >>> [(name, tuple(tensor.shape)) for name, tensor in codec.decompress(data).items()]
    [('weight', (32, 64)), ('bias', (32,))]
    """

    def __init__(
        self,
        config: CodecConfig | None = None,
        roles: Mapping[str, Role] | None = None,
        gains: Mapping[str, Gains] | None = None,
        inputs: Mapping[str, Inputs] | None = None,
    ) -> None:
        self.config, self.roles, self.gains = config or CodecConfig(), dict(roles or {}), dict(gains or {})
        self.inputs = dict(inputs or {})
        self._layouts = LayoutTable(self.config.layouts)
        self._codes: dict[tuple[str, bool], Coordinates] = {}
        needed = msgspec.structs.replace(self.config, architectures=())
        digest = hashlib.blake2b(repr(to_plain(needed)).encode())
        for _, role in sorted(self.roles.items()):
            for name in TENSORS:
                digest.update(getattr(role, name).numpy().tobytes())
        for _, gains_of in sorted(self.gains.items()):
            digest.update(gains_of.numpy().tobytes())
        #: Hash of all that a reader needs.
        self.identity = digest.digest()

    @classmethod
    def fit(
        cls, populations: Iterable[Population], *, images: int = 64, temperature: float = 0.5, seed: int = 0
    ) -> "WeightCodec":
        """Return a codec of a zoo, see `fit.fit_roles`."""
        return cls(*fit_roles(populations, images=images, temperature=temperature, seed=seed))

    @classmethod
    def from_folder(cls, folder: Path) -> "WeightCodec":
        """Return the codec that `save` wrote.

        Raises:
            DataError: if a file is missing, not readable, or holds no statistics of weights.
            ConfigError: if config.json is not that of a codec.
            ModelError: if the folder is of another format.
        """
        config = _read_config(Path(folder) / CONFIG)
        tensors = read_tensors(Path(folder) / WEIGHTS)
        missing = [key for key in config.roles if not all(f"{key}/{name}" in tensors for name in TENSORS)]
        if missing:
            raise DataError("roles are missing", where=Path(folder) / WEIGHTS, expected=missing[0])
        roles = {}
        for key, figures in config.roles.items():
            matrix, stds, mean = (tensors[f"{key}/{name}"] for name in TENSORS)
            role = Role(matrix, stds, mean, figures.weight, figures.level)
            role.check(f"{Path(folder) / WEIGHTS}: {key}")
            roles[key] = role._replace(log_stds=stds.long())
        gains = {name: tensors[f"gains/{name}"] for name in config.structures if f"gains/{name}" in tensors}
        for name, values in gains.items():
            check_gains(values, f"{Path(folder) / WEIGHTS}: gains/{name}")
        inputs = loaded(config.architectures, tensors, str(Path(folder) / WEIGHTS))
        return cls(config, roles, {name: values.long() for name, values in gains.items()}, inputs)

    def save(self, folder: Path) -> None:
        """Write config.json and codec.safetensors into a folder."""
        tensors = {f"{key}/{name}": getattr(role, name) for key, role in self.roles.items() for name in TENSORS}
        narrow = {name: value.short() if name.endswith("log_stds") else value for name, value in tensors.items()}
        narrow |= {f"gains/{name}": value.int() for name, value in self.gains.items()}
        write_tensors(Path(folder) / WEIGHTS, narrow | saved(self.inputs))
        write_json(Path(folder) / CONFIG, {"format": FORMAT, **to_plain(self.config)})

    def coordinates(self, layout: Layout, *, plain: bool = False) -> Coordinates:
        """Return the coordinates of networks of a layout; plain ones are the weights, tensor by tensor."""
        key = (layout.identity, plain)
        if key not in self._codes:
            structure = Structure(layout, (lambda _: False) if plain else self._whole, units=not plain)
            known = not plain and Structure(layout).signature in self.config.structures
            roles = {} if plain else self.roles
            gains = self.gains.get(structure.signature) if known else None
            self._codes[key] = Coordinates(structure, roles, known=known, relative=self.config.relative, gains=gains)
        return self._codes[key]

    def compress(
        self,
        network: Network | str | Path,
        *,
        ratio: float | int = 10,
        reference: Network | str | Path | None = None,
        images: Float[Tensor, "images ..."] | None = None,
        architecture: Architecture | str | nn.Module | None = None,
        search: SearchConfig | None = RUN,
    ) -> bytes:
        """Return a network as the bytes of a file, `ratio` times smaller than its weights in float32.

        Numbers are searched that keep the outputs of the network: on images or, without them, on inputs of the zoo, if the
        network has an architecture of the zoo and classifies them. Weights of others are rounded.

        Args:
            network: module, state dict, file or `ZOO#MODEL_ID`, see `wscore.zoo.state.state_of`.
            ratio: bytes of the weights in float32 to those of the file.
            reference: network of the same layout that the reader has; differences from it are coded.
            images: training inputs of a classifier.
            architecture: how a state dict is run; a module runs itself.
            search: how numbers are searched; None rounds weights and runs nothing, in a hundredth of the time.

        Raises:
            DataError: if a weight is not finite or a tensor is of a type that is not kept.
            ModelError: if the file can't be as small, the network can't be run, or the reference has another layout.
        """
        network = _given(network)
        reference = None if reference is None else _given(reference)
        state = network_state(network)
        layout, entries = layout_of(state), entries_of(state)
        originals = Originals(weights_of(layout, state), _base(layout, reference))
        if search is not None and images is not None:
            originals = originals._replace(answer=answer_of(network, architecture, layout, images), images=images)
        elif (
            search is not None and (run := self.run_alone(layout, originals.vectors, architecture)) and bool(run.alike)
        ):
            originals = originals._replace(answer=run.answer, images=run.images)
        frame = _Frame(self, entries, originals.base, exact_values(state))
        return self._best(layout, originals, [float(ratio)], frame, search or ROUNDED)[0]

    def compress_vectors(
        self,
        layout: Layout,
        vectors: Float[Tensor, "n weights"],
        *,
        ratio: float | int | Sequence[float],
        answer: Answer | None = None,
        images: Float[Tensor, "images ..."] | None = None,
        search: SearchConfig = RUN,
    ) -> list[bytes]:
        """Return files of networks of one layout of a zoo, in one go; arguments as of `compress`.

        Args:
            layout: of the networks.
            vectors: their weights.
            ratio: of all of them, or of each.
            answer: runs them; with images, numbers are searched.
            images: training inputs.
            search: how numbers are searched.

        Raises:
            ModelError: if a file can't be as small.
        """
        frame = _Frame(self, entries_of_layout(layout), None, {})
        ratios = [float(ratio)] * len(vectors) if isinstance(ratio, float | int) else list(ratio)
        count, files = TOGETHER if self.coordinates(layout).known else 1, []
        if answer is not None and layout.size <= MOST:
            count = max(1, min(count, CURVED // layout.size**2))
        originals = Originals(vectors, None, answer, images)
        for rows in torch.arange(len(vectors)).split(count):
            each = [ratios[row] for row in rows.tolist()]
            files += self._best(layout, originals.of(rows), each, frame, search)
        return files

    def run_alone(
        self,
        layout: Layout,
        vectors: Float[Tensor, "n weights"],
        architecture: Architecture | str | nn.Module | None = None,
    ) -> Run | None:
        """Return how networks without images are run; None if the zoo has none like them.

        Without an architecture of wscore, activation and pooling are those that suit each network best.
        """
        known = parse(architecture) if isinstance(architecture, str) else architecture
        known = known if isinstance(known, Architecture) else None
        return run_alone(layout, vectors, self.config.architectures, self.inputs, known)

    def decompress(self, data: bytes, reference: State | nn.Module | None = None) -> dict[str, Tensor]:
        """Return the state dict in the bytes of a file.

        Args:
            data: that `compress` returned.
            reference: the network that was given to it.

        Raises:
            DataError: if the bytes are not a file of this codec, or are damaged.
            ModelError: if the reference is missing or another one.
        """
        content = unpack_file(data, self.identity, self._layouts)
        layout = layout_of_entries(content.layout)
        check_size(layout.size, len(data))
        base = _check_reference(content, layout, reference)
        code = self.coordinates(layout, plain=content.mode == Mode.OWN)
        if content.mode == Mode.OWN:
            vectors = own_steps.decompress(code, content.payload, base)
        else:
            vectors = one_step.decompress(code, content.step, content.payload, base)
        return rebuild_state(content.layout, layout, vectors[0], content.exact)

    def forward(self, layout: Layout, vectors: Float[Tensor, "n weights"], *, ratio: float) -> RateDistortion:
        """Return networks as they come back at a compression, with straight-through gradients, and their bits."""
        code = self.coordinates(layout)
        y = code.forward(vectors)
        stored = quantise(code, y.detach(), torch.full((len(y),), 32 * layout.size / ratio).double())
        rounded = y + (dequantise(code, stored) - y).detach()
        return RateDistortion(code.inverse(rounded), soft_bits(code, y, stored))

    def _whole(self, block: Block) -> bool:
        return find_role(block, self.roles) is not None

    def _modes(self, layout: Layout, originals: Originals) -> list[Mode]:
        code, runs = self.coordinates(layout), originals.answer is not None
        if code.known or layout.size > MOST_OWN or (runs and originals.base is not None):
            return [Mode.BLOCKS]
        alike = not runs and originals.base is None and bool(code.like_zoo(originals.vectors).all())
        return [Mode.BLOCKS] if alike else [Mode.BLOCKS, Mode.OWN]

    def _best(
        self, layout: Layout, originals: Originals, ratios: Sequence[float], frame: "_Frame", search: SearchConfig
    ) -> list[bytes]:
        """Return files in the only mode, or that of a single network in the mode that keeps it best."""
        wrong = [ratio for ratio in ratios if not 0 < ratio < float("inf")]
        if wrong:
            raise ModelError("is no compression", where="ratio", expected="a number above 0", got=wrong[0])
        sizes = torch.tensor([int(4 * layout.size / ratio) for ratio in ratios])
        modes = self._modes(layout, originals)
        if len(modes) == 1:
            return self._files(modes[0], layout, originals, sizes, frame, search)[0]
        candidates, refused = [], None
        for mode in modes:
            try:
                files, back = self._files(mode, layout, originals, sizes, frame, search)
            except ModelError as error:  # a mode that needs more bytes
                refused = error
                continue
            doubt = DOUBT if mode == Mode.OWN and self.roles and originals.answer is None else 1.0
            candidates.append((doubt * _distance(self.coordinates(layout), originals, back, search), files))
        if not candidates:
            assert refused is not None, "there is a mode"
            raise refused
        return min(candidates, key=lambda pair: pair[0])[1]

    def _files(
        self,
        mode: Mode,
        layout: Layout,
        originals: Originals,
        sizes: Int[Tensor, " n"],
        frame: "_Frame",
        search: SearchConfig,
    ) -> tuple[list[bytes], Float[Tensor, "n weights"]]:
        code, way = self.coordinates(layout, plain=mode == Mode.OWN), own_steps if mode == Mode.OWN else one_step
        return way.compress(code, originals, sizes, partial(frame.file, mode), search)

    def file(self, content: Content) -> bytes:
        """Return the bytes of a file of this codec."""
        return pack_file(content, self.identity, self._layouts)


class _Frame(NamedTuple):
    """What files have around their numbers."""

    codec: WeightCodec
    layout: Entries
    base: Float[Tensor, "1 weights"] | None
    exact: Exact

    def file(self, mode: Mode, step: int, payload: bytes) -> bytes:
        reference = b"" if self.base is None else _hash(self.base)
        return self.codec.file(Content(mode, self.layout, reference, self.exact, step, payload))


def _hash(base: Float[Tensor, "1 weights"]) -> bytes:
    """Return by which a file knows its reference again."""
    return hashlib.blake2b(base.numpy().tobytes(), digest_size=REFERENCE_HASH).digest()


def _given(network: Any) -> Network:
    """Return a network that is given in a file or in another form than a module or state dict."""
    return network if isinstance(network, nn.Module | Mapping) else state_of(network)


def _base(layout: Layout, reference: State | nn.Module | None) -> Float[Tensor, "1 weights"] | None:
    if reference is None:
        return None
    state = network_state(reference)
    check_same(layout, layout_of(state), "reference")
    return weights_of(layout, state)


def _read_config(path: Path) -> CodecConfig:
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(
            "is not the configuration of a codec", where=path, expected="a JSON object", got=type(content).__name__
        )
    saved = content.pop("format", 1)
    if type(saved) is not int or saved != FORMAT:
        fix = "fit the codec again: dvc repro fit_codec" if saved == 1 else "update wscore"
        raise ModelError("is of another format", where=path, expected=FORMAT, got=saved, fix=fix)
    return convert(content, CodecConfig, where=str(path))


def _check_reference(content: Content, layout: Layout, reference: State | nn.Module | None) -> Tensor | None:
    if not content.reference:
        return None
    if reference is None:
        raise ModelError("is the difference from another network", where="reference",
                         expected=f"the network of hash {content.reference.hex()}", fix="name it by --reference")  # fmt: skip
    base = _base(layout, reference)
    if base is None or _hash(base) != content.reference:
        got = None if base is None else _hash(base).hex()
        raise ModelError("the reference is another network", where="reference", expected=content.reference.hex(),
                         got=got)  # fmt: skip
    return base


def _distance(code: Coordinates, originals: Originals, back: Tensor, search: SearchConfig) -> float:
    """Return how far networks are from their originals: the divergence of their outputs, or else the product of two errors.

    One is the sum over tensors of n weights of relative squared errors, each by n^-0.5; the other weighs errors as networks
    of the zoo notice them. Of networks unlike the zoo only the first is right, of those like it the second.
    """
    if originals.answer is not None:
        return float(originals.judge(search).divergence(back))
    relative = 0.0
    for place in code.structure.layout.slices().values():
        original, decoded = originals.vectors[:, place], back[:, place]
        share = float((original - decoded).square().sum() / original.square().sum().clamp_min(1e-30))
        relative += share / max(original.shape[1], 1) ** 0.5
    y = code.forward(originals.vectors)
    shifts = (code.shifts(code.scales(y)) / OCTAVE).exp2()[:, code.groups]
    return relative * float(((code.forward(back) - y) * shifts).square().sum())
