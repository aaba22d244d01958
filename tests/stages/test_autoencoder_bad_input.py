"""What an autoencoder can't be made of stops its stage with one line that names the remedy; an expansion is said to be one."""

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from stages import evaluate_autoencoder, fit_codec, tokenize_zoo, train_autoencoder
from wscore.config import read_yaml
from wscore.networks import architectures
from wscore.networks.architectures import Architecture, Classifier
from wscore.zoo.store import Zoo, write_layouts, write_part

ROOT = Path(__file__).parents[2]
CHANGES: dict[str, dict[str, object]] = {
    "data": {},
    "tokens": {"validation_fraction": 0.2, "test_fraction": 0.3},
    "ae": {"latent_dim": 4, "hidden_dim": 8, "layers": 1, "heads": 2, "epochs": 1, "batch_size": 8},
    "evaluate": {"max_networks": 3, "probe_images": 30, "bootstrap_samples": 5},
}  # fmt: skip


@pytest.fixture
def write_params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.chdir(tmp_path)
    params = read_yaml(ROOT / "params.yaml")

    def write(**changes: dict[str, object]) -> None:
        content = {name: {**params[name], **own, **changes.get(name, {})} for name, own in CHANGES.items()}
        Path("params.yaml").write_text(json.dumps(content))

    return write


def tokenize(zoo: Path) -> None:
    tokenize_zoo.main(["--zoo", str(zoo), "--out", "tokens", "--metrics", "tokens.json"])


def train(zoo: Path) -> None:
    train_autoencoder.main(
        ["--zoo", str(zoo), "--tokens", "tokens", "--out", "model", "--history", "history.csv", "--metrics", "ae.json"]
    )


class Branching(Classifier):
    """Looks at its values to decide what to do, which no trace can follow."""

    def forward(self, images: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Return the logits."""
        return super().forward(images, keep) if images.sum() > 0 else super().forward(-images, keep)


def branching(architecture: Architecture) -> Classifier:
    pixels = int(np.prod(architecture.input))
    layers = {"flatten": nn.Flatten(), "linear1": nn.Linear(pixels, architecture.widths[0]), "act1": nn.ReLU()}
    return Branching(OrderedDict(**layers, head=nn.Linear(architecture.widths[0], architecture.classes)))


def test_a_network_that_can_not_be_traced(
    write_params: Callable[..., None], tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(architectures.FAMILIES, "mlp", branching)
    write_params(tokens={"align": "weights"})
    with pytest.raises(SystemExit, match=r"Branching.*can't be traced.*set tokens\.align to none"):
        tokenize(tiny_zoo)
    assert not Path("tokens").exists()
    write_params(tokens={"align": "none"})
    tokenize(tiny_zoo)
    assert Path("tokens/manifest.json").is_file()


def test_a_zoo_with_one_network(
    write_params: Callable[..., None], make_tiny_zoo: Callable[..., Path], tmp_path: Path
) -> None:
    write_params()
    zoo = make_tiny_zoo(tmp_path / "one", families=("mlp",), runs=1, checkpoints=1)
    with pytest.raises(SystemExit, match=r"no run falls in the .* split.*got 1 runs.*add runs \(zoo\.n_runs\)"):
        tokenize(zoo)
    assert not Path("tokens").exists()


def test_a_behaviour_loss_without_networks_that_can_be_rebuilt(
    write_params: Callable[..., None], tiny_zoo: Path, tmp_path: Path
) -> None:
    zoo = Zoo(tiny_zoo)
    foreign = tmp_path / "foreign"
    table = zoo.table.assign(architecture="")
    write_part(foreign / "rows" / "part-00000.parquet", table, [zoo.weights([row])[0] for row in range(len(zoo))])
    write_layouts(foreign, zoo.layouts.values())
    write_params(tokens={"align": "none"})
    tokenize(foreign)
    with pytest.raises(
        SystemExit, match=r"cannot be built and run.*set ae\.behaviour\.share to 0 and ae\.select to loss"
    ):
        train(foreign)
    assert not Path("model").exists()
    behaviour = {**read_yaml(ROOT / "params.yaml")["ae"]["behaviour"], "share": 0.0}
    write_params(ae={"behaviour": behaviour, "select": "loss"})
    train(foreign)
    assert Path("model/decoder/config.json").is_file()


@pytest.mark.parametrize("arch", ["mlp", "vae"])
def test_a_latent_larger_than_the_network_is_allowed_and_flagged(
    write_params: Callable[..., None], tiny_zoo: Path, capsys: pytest.CaptureFixture[str], arch: str
) -> None:
    write_params(ae={"latent_dim": 600, "arch": arch})
    tokenize(tiny_zoo)
    train(tiny_zoo)
    assert "EXPANSION" in capsys.readouterr().out
    assert json.loads(Path("ae.json").read_text())["ae"]["expansion"] == 1
    fit_codec.main(["--zoo", str(tiny_zoo), "--tokens", "tokens", "--out", "codec", "--metrics", "codec.json"])
    options = {
        "zoo": tiny_zoo,
        "tokens": "tokens",
        "autoencoder": "model",
        "codec": "codec",
        "encoder": "encoder",
        "decoder": "decoder",
        "metrics": "test.json",
        "plots": "plots",
    }
    Path("decoder").mkdir()  # as for networks that can't be run
    evaluate_autoencoder.main([word for name, value in options.items() for word in (f"--{name}", str(value))])
    found = json.loads(Path("test.json").read_text())["autoencoder_test"]
    assert found["ours"]["expansion"] == 1
    assert found["ours"]["compression_ratio"] < 1
