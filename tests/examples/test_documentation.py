"""Python blocks of the documentation run, page by page, on a finished pipeline."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.contract.imports import ROOT
from wscore import Zoo, build, record
from wscore.forecasting.trajectories.store import open_trajectories
from wscore.networks.images import Images

pytestmark = pytest.mark.slow
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PAGES = [
    page for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))) if BLOCK.search(page.read_text("utf-8"))
]


def test_the_blocks_of_the_readme_and_the_guides_are_found() -> None:
    named = {page.name for page in PAGES}
    assert {"README.md", "autoencoder.md", "heads.md", "sparse_dictionary.md", "forecasting.md", "zoos.md"} <= named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(page: Path, workplace: Path, digits: Images) -> None:
    for number, block in enumerate(BLOCK.findall(page.read_text("utf-8"))):
        names = readers_names(digits)
        exec(compile(block, f"{page.name}, block {number + 1}", "exec"), names)


def test_the_blocks_of_the_cards_run(workplace: Path) -> None:
    cards = sorted(Path("models/published").rglob("README.md"))
    blocks = {card: BLOCK.findall(card.read_text("utf-8")) for card in cards}
    assert sum(map(len, blocks.values())) >= 7
    for card, found in blocks.items():
        for block in found:
            exec(compile(block, str(card), "exec"), {})


def readers_names(digits: Images) -> dict[str, Any]:
    """Return what a reader has before a block: a network of the zoo, images, a training loop, a recorded run."""
    zoo = Zoo("data/zoo")
    architecture = zoo.table["architecture"][0]
    network = build(architecture)
    network.load_state_dict(zoo.state_dict(0))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)

    def train_step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def evaluate(network: nn.Module) -> float:
        with torch.no_grad():
            return float((network(digits.x_test).argmax(dim=1) == digits.y_test).float().mean())

    runs = open_trajectories(Path("data/trajectories"))
    images = digits.x_train[:64]
    batches = [(images, digits.y_train[:64])] * 3
    return {
        "network": network.eval(), "architecture": architecture, "optimizer": optimizer, "images": images, "batches": batches,
        "train_step": train_step, "evaluate": evaluate, "runs": runs, "layout": runs[0].layout,
        "history": torch.from_numpy(np.array(runs[0].weights[:4])), "record": record,
    }  # fmt: skip
