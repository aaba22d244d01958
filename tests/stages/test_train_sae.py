"""The stage that learns a dictionary, on the four inputs."""

import json
from pathlib import Path

import pandas as pd
import pytest

from stages import train_autoencoder, train_sae
from wscore.config import read_yaml
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.training.model_folder import load_model
from wscore.zoo.store import Zoo

ROOT = Path(__file__).parents[2]
SMALL = {"latent_dim": 12, "k": 3, "epochs": 2, "batch_size": 64, "dead": "none"}
AE = {"latent_dim": 5, "hidden_dim": 8, "layers": 1, "epochs": 1, "batch_size": 8}


@pytest.fixture(scope="module")
def inputs(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens, and a tiny autoencoder."""
    folder = tmp_path_factory.mktemp("inputs")
    config = TokensConfig(
        granularity="neuron", chunk_size=40, max_tokens=512, align="none", normalization="layer",
        unseen_widths={}, validation_fraction=0.2, test_fraction=0.3, seed=0,
    )  # fmt: skip
    build_cache(Zoo(tiny_zoo), config, folder / "tokens")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = read_yaml(ROOT / "params.yaml")
        weights_only = {"select": "loss", "behaviour": {**params["ae"]["behaviour"], "share": 0.0}}
        content = {"ae": {**params["ae"], **AE, **weights_only}, "data": params["data"]}
        Path("params.yaml").write_text(json.dumps(content))
        train_autoencoder.main(
            ["--zoo", str(tiny_zoo), "--tokens", "tokens", "--out", "ae", "--history", "h.csv", "--metrics", "ae.json"]
        )
    return folder


@pytest.fixture
def run(inputs: Path, tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`run(**changes)` writes params.yaml and runs the stage in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def start(**changes: object) -> None:
        params = read_yaml(ROOT / "params.yaml")
        section = {**params["sae"], **SMALL, **changes}
        Path("params.yaml").write_text(json.dumps({"sae": section, "data": params["data"]}))
        train_sae.main([
            "--zoo", str(tiny_zoo), "--tokens", str(inputs / "tokens"),
            "--autoencoder", str(inputs / "ae"),
            "--out", "models/sae", "--history", "history.csv", "--metrics", "sae.json",
        ])  # fmt: skip

    return start


@pytest.mark.parametrize("kind", ["representations", "tokens", "neurons", "weights"])
@pytest.mark.filterwarnings("ignore:.*of the latents are dead:wscore.errors.WscoreWarning")
@pytest.mark.filterwarnings("ignore:.*input columns are constant:wscore.errors.WscoreWarning")
def test_a_dictionary_is_learned_of_every_input(kind: str, run, inputs: Path, tiny_zoo: Path) -> None:
    run(input=kind)
    figures = json.loads(Path("sae.json").read_text())["sae"]
    content = json.loads(Path("models/sae/config.json").read_text())
    assert (content["input"], content["tokens"]) == (kind, TokenCache(inputs / "tokens").identity)
    model = load_model(Path("models/sae"))
    widest = max(layout.size for layout in Zoo(tiny_zoo).layouts.values())
    expected = {"representations": 5, "tokens": 40, "weights": widest}
    assert model.config.input_dim == figures["width"] == expected.get(kind, figures["width"])
    assert {"tokenizer.json", "normalizer.json", "symmetry.json"} <= {
        path.name for path in Path("models/sae").iterdir()
    }
    history = pd.read_csv("history.csv")
    assert list(history["epoch"]) == [1, 2]
    parts = ("loss", "reconstruction", "sparsity", "l0", "dead")
    assert {f"{split}_{part}" for split in ("train", "validation") for part in parts} <= set(history)


@pytest.mark.filterwarnings("ignore:.*of the latents are dead:wscore.errors.WscoreWarning")
def test_the_same_run_twice_gives_the_same_bytes(run) -> None:
    run()
    first = Path("models/sae/model.safetensors").read_bytes(), Path("sae.json").read_bytes()
    run()
    assert (Path("models/sae/model.safetensors").read_bytes(), Path("sae.json").read_bytes()) == first


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"latent_dim": 0}, "sae.latent_dim"), ({"k": 13}, "k 13 is larger"), ({"input": "pixels"}, "sae.input")],
)
def test_bad_parameters_stop_the_stage_without_output(run, changes: dict[str, object], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        run(**changes)
    assert not Path("models").exists()
