"""Models from a folder or the Hub: in another process the same bits, and a clear word where something is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.unit.hub_server import Fault, HubServer
from wscore.autoencoder.models.autoencoder import AutoencoderConfig, Decoder, Encoder
from wscore.autoencoder.models.mlp import MlpConfig
from wscore.config import Section
from wscore.errors import DataError, ModelError, PublishError
from wscore.hub.checksums import CHECKSUMS, write_checksums
from wscore.hub.client import download
from wscore.hub.fetch import parse_source
from wscore.hub.upload import Upload, upload
from wscore.publish.pretrained import Published, PublishedDecoder, PublishedEncoder
from wscore.publish.weight_autoencoder import WeightAutoencoder
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.training.model_folder import register, save_model
from wscore.zoo.store import Zoo

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the client, for large files
FRESH = """
import sys
import torch
from safetensors.torch import save_file
from wscore import WeightAutoencoder, Zoo

source, zoo, out = sys.argv[1:]
zoo = Zoo(zoo)
state = zoo.layout(3).unflatten(torch.from_numpy(zoo.weights([3])[0]))
model = WeightAutoencoder.from_pretrained(source)
encoded = model.encode(state)
save_file({"latents": encoded.latents, **{k: v.clone() for k, v in model.decode(encoded).items()}}, out)
"""


class TiedConfig(Section):
    """One number."""

    width: int


@register
class TiedForTests(nn.Module):
    """Two layers that share their weight."""

    def __init__(self, config: TiedConfig) -> None:
        super().__init__()
        self.config = config
        self.one = nn.Linear(config.width, config.width, bias=False)
        self.two = nn.Linear(config.width, config.width, bias=False)
        self.two.weight = self.one.weight


@pytest.fixture(scope="module")
def original(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoder and decoder as they are published."""
    config = TokensConfig(
        granularity="neuron", chunk_size=64, max_tokens=512, align="weights",
        normalization="layer", unseen_widths={}, validation_fraction=0.2, test_fraction=0.2, seed=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("original")
    build_cache(Zoo(tiny_zoo), config, folder / "tokens")
    cache = TokenCache(folder / "tokens")
    network = MlpConfig(
        token_dim=cache.token_dim, max_tokens=cache.max_tokens, latent_dim=8, hidden_dim=16, layers=1,
        pooling="flatten", positions="sinusoidal", dropout=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    for name, kind in (("encoder", Encoder), ("decoder", Decoder)):
        save_model(folder / "made" / name, kind(AutoencoderConfig(network=network)), extra={"tokens": "x"})
        cache.copy_codec(folder / "made" / name)
        (folder / "made" / name / "README.md").write_text("a card")
        write_checksums(folder / "made" / name)
    write_checksums(folder / "made")
    return folder / "made"


@pytest.fixture
def made(original: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    import shutil

    return Path(shutil.copytree(original, tmp_path / "made"))


def network(zoo: Path, row: int = 3) -> dict[str, Tensor]:
    opened = Zoo(zoo)
    return opened.layout(row).unflatten(torch.from_numpy(opened.weights([row])[0]))


def in_a_fresh_process(source: str, zoo: Path, out: Path, **environment: str) -> dict[str, Tensor]:
    env = {**os.environ, "HF_HOME": str(out.parent / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    command = [sys.executable, "-c", FRESH, source, str(zoo), str(out)]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return load_file(out)


def here(source: Path | str, zoo: Path) -> dict[str, Tensor]:
    model = WeightAutoencoder.from_pretrained(source)
    state = network(zoo)
    return {"latents": model.encode(state).latents, **model(state)}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_published_and_loaded_it_gives_the_same_bits_and_offline_in_another_process_too(
    made: Path, tiny_zoo: Path, hub: HubServer, tmp_path: Path
) -> None:
    upload([Upload("me/zoo", made)])
    pinned = f"me/zoo@{hub.repositories['models/me/zoo'].commits[-1][0]}"
    expected = here(made, tiny_zoo)
    assert equal(here(pinned, tiny_zoo), expected)
    hub.requests.clear()
    cached = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(constants.HF_HUB_CACHE)}
    assert equal(in_a_fresh_process(pinned, tiny_zoo, tmp_path / "out.safetensors", **cached), expected)
    assert hub.requests == []


def test_one_side_alone_is_a_repository_of_its_own(made: Path, tiny_zoo: Path, hub: HubServer) -> None:
    upload([Upload("me/zoo-encoder", made / "encoder"), Upload("me/zoo-decoder", made / "decoder")])
    encoder, decoder = (WeightAutoencoder.from_pretrained(f"me/zoo-{side}") for side in ("encoder", "decoder"))
    assert (encoder.decoder, decoder.encoder) == (None, None)
    state = network(tiny_zoo)
    rebuilt = decoder.decode(encoder.encode(state))
    assert equal(rebuilt, WeightAutoencoder.from_pretrained(made)(state))
    with pytest.raises(ModelError, match="has no decoder"):
        encoder(state)
    with pytest.raises(ModelError, match="has no encoder"):
        decoder.encode(state)


def test_only_the_wanted_side_is_fetched(made: Path, hub: HubServer) -> None:
    upload([Upload("me/zoo", made)])
    hub.requests.clear()
    assert WeightAutoencoder.from_pretrained("me/zoo", side="encoder").decoder is None
    assert hub.count("resolve/.*/encoder/model.safetensors") > 0
    assert hub.count("resolve/.*/decoder/") == 0


@pytest.mark.parametrize("kind", [PublishedEncoder, PublishedDecoder, WeightAutoencoder])
def test_saved_again_every_file_is_the_same(kind: type, made: Path, tmp_path: Path) -> None:
    kind.from_pretrained(made).save_pretrained(tmp_path / "again")
    source = made if kind is WeightAutoencoder else made / kind.part
    for path in source.rglob("*"):
        if path.is_file() and path != made / CHECKSUMS:
            assert (tmp_path / "again" / path.relative_to(source)).read_bytes() == path.read_bytes(), path


def test_a_model_pushes_itself(made: Path, tiny_zoo: Path, hub: HubServer) -> None:
    encoder = PublishedEncoder.from_pretrained(made)
    assert encoder.push_to_hub("me/own").startswith(hub.address)
    assert hub.repositories["models/me/own"].private is True
    state = network(tiny_zoo)
    assert torch.equal(PublishedEncoder.from_pretrained("me/own").encode(state).latents, encoder.encode(state).latents)
    WeightAutoencoder.from_pretrained(made).push_to_hub("me/both")
    assert {"encoder/config.json", "decoder/config.json"} <= set(hub.files("me/both"))


def test_tied_weights_are_still_tied(tmp_path: Path, hub: HubServer) -> None:
    model = TiedForTests(TiedConfig(width=3))
    save_model(tmp_path / "tied", model)
    write_checksums(tmp_path / "tied")
    upload([Upload("me/tied", tmp_path / "tied")])
    loaded = Published.from_pretrained("me/tied")
    loaded.save_pretrained(tmp_path / "again")
    again = Published(tmp_path / "again").model
    assert torch.equal(again.two.weight, model.one.weight)
    assert again.two.weight is again.one.weight


@pytest.mark.parametrize(
    ("text", "expected"),
    [("me/zoo", ("me/zoo", None)), ("me/zoo@abc", ("me/zoo", "abc")), (".", (".", None))],
)
def test_sources_are_told_apart(text: str, expected: tuple[str, str | None]) -> None:
    assert parse_source(text) == expected


@pytest.mark.parametrize("text", ["/nowhere/x", "./nowhere", "~/nowhere", Path("nowhere/x")])
def test_a_missing_folder_is_not_looked_for_on_the_hub(text: str | Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        parse_source(text)


@pytest.mark.parametrize("text", ["zoo", "a/b/c", "me/zo o"])
def test_a_malformed_source_is_named(text: str) -> None:
    with pytest.raises(PublishError, match="malformed repository id"):
        parse_source(text)


def test_two_revisions_are_one_too_many() -> None:
    with pytest.raises(ModelError, match="two revisions are named; got abc and other"):
        parse_source("me/zoo@abc", "other")


@pytest.mark.parametrize(
    ("source", "reason"),
    [("me/nothing", "404"), ("me/zoo@" + "9" * 40, f"me/zoo at {'9' * 40}: .*404"), ("me/zoo@nobranch", "404")],
)
def test_what_the_hub_does_not_have_is_named(made: Path, hub: HubServer, source: str, reason: str) -> None:
    upload([Upload("me/zoo", made)])
    with pytest.raises(DataError, match=reason):
        WeightAutoencoder.from_pretrained(source)


def test_a_repository_without_the_model_is_named(folder: Path, hub: HubServer) -> None:
    upload([Upload("me/zoo", folder)])
    with pytest.raises(ModelError, match=r"predictor: no such model here; expected config\.json"):
        Published.from_pretrained("me/zoo", part="predictor")


@pytest.mark.parametrize(("token", "reason"), [("hf_wrongwrongwrong", "401"), ("", "401")])
def test_a_wrong_token_is_told_and_not_shown(
    made: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, token: str, reason: str
) -> None:
    upload([Upload("me/zoo", made)])
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(DataError, match=reason) as caught:
        WeightAutoencoder.from_pretrained("me/zoo")
    assert "hf_wrong" not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "how"), [("revision", 500), ("tree", "cut"), ("GET .*model.safetensors", "cut"), ("resolve", 503)]
)
def test_an_error_that_passes_is_got_over(made: Path, hub: HubServer, pattern: str, how: int | str) -> None:
    upload([Upload("me/zoo", made)])
    hub.faults = [Fault(pattern, how)]
    download("me/zoo", None)
    WeightAutoencoder.from_pretrained("me/zoo")


def test_a_silent_server_is_given_up(made: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    upload([Upload("me/zoo", made)])
    monkeypatch.setattr("wscore.hub.client.SILENCE_SECONDS", 0.3)
    hub.faults = [Fault("GET", "silent", times=None)]
    with pytest.raises(DataError, match="can't be loaded from the Hub; got no answer"):
        WeightAutoencoder.from_pretrained("me/zoo")


def spoil_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def lie_about_lengths(folder: Path) -> None:
    """A header that promises more than there is, with checksums made to fit."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes((10**9).to_bytes(8, "little") + data[8:])
    content = json.loads((folder / "config.json").read_text())
    write_checksums(folder)
    content["sha256"] = json.loads((folder / CHECKSUMS).read_text())["files"]["model.safetensors"]
    (folder / "config.json").write_text(json.dumps(content))
    write_checksums(folder)


def rewrite(name: str, **change: object) -> "object":
    def spoil(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **change}))
        if name != CHECKSUMS:
            write_checksums(folder)

    return spoil


SPOILT = {
    "altered weights": (spoil_weights, r"model\.safetensors: was altered"),
    "missing weights": (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors: is missing"),
    "altered normaliser": (
        lambda folder: (folder / "normalizer.json").write_text("{}"),
        "normalizer.json: was altered",
    ),
    "missing tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json: is missing"),
    "missing checksums": (lambda folder: (folder / CHECKSUMS).unlink(), r"checksums\.json is missing"),
    "broken checksums": (lambda folder: (folder / CHECKSUMS).write_text("{"), "is not valid JSON"),
    "newer checksums": (rewrite(CHECKSUMS, format=2), "expected format 1; got format 2; update wscore"),
    "older checksums": (rewrite(CHECKSUMS, format=0), "expected format 1; got format 0; publish it again"),
    "newer format": (rewrite("config.json", format=99), "unknown format; expected at most 3; got 99"),
    "another class": (rewrite("config.json", **{"class": "Decoder"}), "expected Encoder; got Decoder"),
    "unknown class": (rewrite("config.json", **{"class": "Nobody"}), "unknown model class"),
    "other sizes": (rewrite("config.json", config={"network": None}), "configuration does not match its class"),
    "lying header": (lie_about_lengths, "is not a readable safetensors file"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_folder_is_refused_in_one_sentence(made: Path, name: str) -> None:
    spoil, reason = SPOILT[name]
    spoil(made / "encoder")  # pyright: ignore[reportCallIssue]
    with pytest.raises(ModelError, match=reason):
        PublishedEncoder.from_pretrained(made)


def test_a_card_may_be_edited(made: Path) -> None:
    (made / "encoder/README.md").write_text("better words")
    assert PublishedEncoder.from_pretrained(made).card == "better words"


def test_sides_of_two_publications_are_refused(made: Path, tmp_path: Path) -> None:
    encoder, decoder = PublishedEncoder.from_pretrained(made), PublishedDecoder.from_pretrained(made)
    decoder.codec.normalizer = type(decoder.codec.normalizer)(
        mode="none", overall=decoder.codec.normalizer.overall, kinds={}, layouts={}
    )
    with pytest.raises(ModelError, match="don't belong together"):
        WeightAutoencoder(encoder, decoder)
