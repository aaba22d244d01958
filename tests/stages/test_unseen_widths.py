"""Nothing that is fitted depends on networks of unseen widths: other weights and labels of theirs leave every model the same."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from stages import (
    cache_representations,
    fit_codec,
    tokenize_zoo,
    train_autoencoder,
    train_encoder,
    train_heads,
    train_sae,
)
from wscore.config import read_yaml
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo, read_part, write_part

ROOT = Path(__file__).parents[2]
SEEN, UNSEEN = {"mlp": (6,), "cnn": (3, 4)}, {"mlp": (5,), "cnn": (4, 3)}
SMALL = {
    "tokens": {
        "chunk_size": 40, "unseen_widths": {name: [width] for name, width in UNSEEN.items()},
        "validation_fraction": 0.2, "test_fraction": 0.2,
    },
    "ae": {"latent_dim": 5, "hidden_dim": 8, "layers": 1, "epochs": 1, "batch_size": 8, "select": "loss"},
    "encoder": {"probes": 4, "probe_steps": 2, "hidden_dim": 8, "layers": 1, "epochs": 1},
    "heads": {
        "patterns": ["has_dropout", "activation_relu"], "copies": 1, "boosting_rounds": 3, "hidden_dim": 8, "epochs": 2,
        "batch_size": 8,
    },
    "sae": {"latent_dim": 12, "k": 3, "epochs": 1, "batch_size": 64},
}  # fmt: skip
FILES = {  # what the fits of each stage leave, without the files that name their inputs
    "tokens": ["normalizer.json", "references.safetensors"],
    "codec": ["*.safetensors", "*.json"],
    "ae": ["**/*.safetensors"],
    "encoder": ["**/*.safetensors"],
    "heads": ["**/*.safetensors"],
    "sae": ["**/*.safetensors"],
}


def run_fits(zoo: Path) -> None:
    """Run all stages that fit something, in the current folder."""
    params = read_yaml(ROOT / "params.yaml")
    params["ae"]["behaviour"]["share"] = 0.0
    Path("params.yaml").write_text(json.dumps({name: {**params[name], **SMALL.get(name, {})} for name in params}))
    inputs = ["--zoo", str(zoo), "--tokens", "tokens"]
    tokenize_zoo.main(["--zoo", str(zoo), "--out", "tokens", "--metrics", "tokens.json"])
    fit_codec.main([*inputs, "--out", "codec", "--metrics", "codec.json"])
    train_autoencoder.main([*inputs, "--out", "ae", "--history", "ae.csv", "--metrics", "ae.json"])
    train_encoder.main([*inputs, "--out", "encoder", "--history", "encoder.csv", "--metrics", "encoder.json"])
    cache_representations.main([*inputs, "--encoder", "encoder", "--out", "representations"])
    inputs += ["--representations", "representations"]
    head = ["--task", "patterns", "--autoencoder", "ae", "--out", "heads", "--history", "heads.csv"]
    train_heads.main([*inputs, *head])
    train_sae.main(
        [*inputs[:4], "--autoencoder", "ae", "--out", "sae", "--history", "sae.csv", "--metrics", "sae.json"]
    )


def changed(zoo: Path, folder: Path) -> Path:
    """Copy a zoo with other weights and labels of the unseen widths."""
    shutil.copytree(zoo, folder)
    (part,) = (folder / "rows").iterdir()
    table, vectors = read_part(part)
    unseen = table["architecture"].str.contains("5]|4,3]").to_numpy()
    rng = np.random.default_rng(0)
    shifted = [v * rng.normal(3, 1, v.size) + 1 if other else v for v, other in zip(vectors, unseen, strict=True)]
    labels = {"train_accuracy": 0.99, "test_accuracy": 0.01, "activation": "swish", "lr": 1e6}
    for name, value in labels.items():
        table.loc[unseen, name] = value
    write_part(part, table, [np.abs(v) if other else v for v, other in zip(shifted, unseen, strict=True)])
    assert 0 < unseen.sum() < len(unseen) / 2
    return folder


def contents(folder: Path, names: list[str]) -> Mapping[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for name in names for path in sorted(folder.glob(name))}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:wscore.errors.WscoreWarning")
def test_no_fit_sees_a_network_of_an_unseen_width(
    make_tiny_zoo: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = make_tiny_zoo(tmp_path / "zoo", families=("mlp", "cnn"), runs=10, widths=(SEEN, SEEN, UNSEEN))
    for name, source in (("first", zoo), ("second", changed(zoo, tmp_path / "other"))):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        run_fits(source)
    for name, patterns in FILES.items():
        first, second = (contents(tmp_path / run / name, patterns) for run in ("first", "second"))
        assert first, name
        assert first == second, name
    cache = TokenCache(tmp_path / "first/tokens")
    unseen = cache.table.iloc[cache.indices("unseen")]
    families = Zoo(zoo).table["family"].to_numpy()[unseen["row"]]
    assert (
        unseen["run_id"].nunique() == json.loads((tmp_path / "first/tokens.json").read_text())["tokens"]["runs_unseen"]
    )
    assert sorted(set(families)) == ["cnn", "mlp"]
