"""The stage that fits the weight codec."""

from pathlib import Path

import pytest
import torch

from stages.fit_codec import main
from wscore.autoencoder.coding.codec import WeightCodec
from wscore.config import load_section, read_yaml
from wscore.io import write_json
from wscore.tokens.cache import build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo

ROOT = Path(__file__).parents[2]


def test_the_codec_of_a_zoo_is_small_and_gives_networks_back(
    tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = read_yaml(ROOT / "params.yaml")
    params["tokens"] |= {"validation_fraction": 0.2, "test_fraction": 0.3}
    write_json(Path("params.yaml"), {name: params[name] for name in ("data", "tokens")})
    zoo = Zoo(tiny_zoo)
    build_cache(zoo, load_section(TokensConfig, "tokens"), Path("tokens"))
    main(["--zoo", str(tiny_zoo), "--tokens", "tokens", "--out", "codec", "--metrics", "metrics.json"])
    codec, state = WeightCodec.from_folder(Path("codec")), zoo.state_dict(0)
    back = codec.decompress(codec.compress(state, ratio=4.0))
    assert {name: value.shape for name, value in back.items()} == {name: value.shape for name, value in state.items()}
    error = sum(float((back[name] - value).square().sum()) for name, value in state.items())
    assert error < 0.2 * sum(float(torch.as_tensor(value).square().sum()) for value in state.values())
    assert sum(path.stat().st_size for path in Path("codec").iterdir()) < 1_000_000
