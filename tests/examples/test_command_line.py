"""No file, however strange, makes a command of `wscore` fail with a traceback: status 0, or one line and status 1."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from wscore.cli.main import main
from wscore.zoo.store import Zoo

pytestmark = pytest.mark.slow
INPUTS = 100
COMMANDS: tuple[Callable[[str, Path], list[str]], ...] = (
    lambda file, _: ["encode", file],
    lambda file, _: ["encode", file, "--autoencoder", "--json"],
    lambda file, _: ["predict", file, "--json"],
    lambda file, _: ["neighbours", file, "--among", "data/published/representations"],
    lambda file, _: ["interpolate", file, file, "--steps", "2"],
    lambda file, _: ["forecast", file, file, file, file],
    lambda file, _: ["inspect", file],
    lambda file, out: ["compress", file, "--out", str(out)],
    lambda file, out: ["decompress", file, "--out", f"{out}.safetensors"],
    lambda file, out: ["decode", file, "--out", f"{out}-folder"],
)
STRANGE: tuple[Callable[[random.Random], object], ...] = (
    lambda _: {},
    lambda _: {"weight": torch.zeros(0, 4)},
    lambda _: {"weight": torch.tensor(1.5)},
    lambda _: {"weight": torch.full((3, 4), float("nan"))},
    lambda _: {"weight": torch.full((3, 4), 1e38), "bias": torch.full((3,), -1e38)},
    lambda _: {"weight": torch.zeros(5, 4), "bias": torch.zeros(5)},
    lambda _: {"a.weight": torch.ones(3, 4, dtype=torch.int8), "a.bias": torch.ones(3)},
    lambda _: {"a.weight": torch.ones(3, 4, dtype=torch.bool)},
    lambda _: {"a.weight": torch.ones(3, 4, dtype=torch.complex64)},
    lambda _: {"a.weight": torch.rand(3, 4).bfloat16(), "a.bias": torch.rand(3).half(), "b": torch.rand(2).double()},
    lambda _: {"\x1b[31mred": torch.rand(3, 4), "ключ ☃": torch.rand(3)},
    lambda _: {"x" * 5000: torch.rand(2, 2)},
    lambda r: {f"layer{k}.weight": torch.randn(r.randint(1, 5), r.randint(1, 5)) for k in range(r.randint(1, 300))},
    lambda r: {f"w{k}": torch.randn([r.randint(1, 3) for _ in range(r.randint(0, 7))]) for k in range(6)},
    lambda _: {"running_var": -torch.ones(4), "running_mean": torch.zeros(4), "weight": torch.ones(4)},
    lambda _: {"a": {"b": {"c": {"weight": torch.rand(3, 2)}}}, "optimizer": {"state": {0: torch.rand(3)}}},
    lambda _: [torch.rand(3, 2), torch.rand(3)],
    lambda _: torch.rand(4, 4),
    lambda _: {"epoch": 3, "name": "no tensors"},
    lambda _: {"conv.weight": torch.rand(4, 1, 3, 3), "fc.weight": torch.rand(10, 7)},
    lambda _: {"first": {"weight": torch.rand(3, 2)}, "second": {"weight": torch.rand(3, 2)}},
)


@pytest.fixture(scope="module")
def files(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Strange networks, damaged files, and files of other kinds."""
    folder, rng = tmp_path_factory.mktemp("strange"), random.Random(0)
    torch.manual_seed(0)
    state = {name: tensor.clone() for name, tensor in Zoo(tiny_zoo)[0].items()}
    good = folder / "good.safetensors"
    save_file(state, good)
    made = [write_network(folder / f"strange-{number}.pt", make(rng)) for number, make in enumerate(STRANGE)]
    torch.save(state, folder / "good.pt")
    np.savez(folder / "good.npz", **{name: tensor.numpy() for name, tensor in state.items()})  # pyright: ignore[reportArgumentType]
    sound = [good, folder / "good.pt", folder / "good.npz"]
    (folder / "latents.json").write_text(json.dumps({"weight": [1, 2]}), encoding="utf-8")
    others = [folder, folder / "nothing.pt", folder / "latents.json", folder / "nothing"]
    damaged = []
    while len(made) + len(sound) + len(others) + len(damaged) < INPUTS:
        source = rng.choice([*made, *sound])
        damaged.append(folder / f"damaged-{len(damaged)}{source.suffix}")
        damaged[-1].write_bytes(damage(source.read_bytes(), rng))
    return [*made, *sound, *others, *damaged]


def write_network(path: Path, content: object) -> Path:
    torch.save(content, path)
    if isinstance(content, dict) and content and all(isinstance(item, Tensor) for item in content.values()):
        path = path.with_suffix(".safetensors")
        save_file(content, path)
    return path


def damage(content: bytes, rng: random.Random) -> bytes:
    """Return bytes that are cut off, altered, repeated or foreign."""
    place, kind = rng.randrange(len(content)), rng.randrange(5)
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content + content[place:]
    if kind == 2:
        return rng.randbytes(place % 4096)
    altered = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        altered[rng.randrange(min(len(content), 4096 if kind == 3 else len(content)))] = rng.randrange(256)
    return bytes(altered)


def complaint(arguments: list[str]) -> object:
    """Return what a command says as it stops; None if it succeeds."""
    try:
        main(arguments)
    except SystemExit as stopped:
        return stopped.code
    return None


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_command_fails_with_a_traceback(
    files: list[Path], workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(files) == INPUTS
    outcomes: list[bool] = []
    for number, file in enumerate(files):
        chosen = [COMMANDS[number % len(COMMANDS)]] if "damaged" in file.name else COMMANDS
        for place, command in enumerate(chosen):
            arguments = command(str(file), tmp_path / f"out-{number}-{place}")
            said = complaint(arguments)
            outcomes.append(said is None)
            assert said is None or (isinstance(said, str) and said.startswith(f"wscore {arguments[0]}: ")), arguments
            assert "\n" not in str(said), arguments
        capsys.readouterr()
    assert min(outcomes.count(True), outcomes.count(False)) > INPUTS // 10
