"""Aligned caches: same functions, closer networks, one order per run, references from the training split only."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wscore.errors import WscoreWarning
from wscore.networks.inference import StackedAnswer, logits
from wscore.tokens.alignment import Alignment
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo


def configured(align: str) -> TokensConfig:
    return TokensConfig(
        granularity="neuron", chunk_size=32, max_tokens=512, align=align, normalization="none",
        unseen_widths={}, validation_fraction=0.3, test_fraction=0.3, seed=0,
    )  # fmt: skip


def test_aligned_networks_compute_what_they_computed_and_lie_closer(tiny_zoo: Path) -> None:
    zoo = Zoo(tiny_zoo)
    alignment = Alignment.fit(zoo, np.ones(len(zoo), bool))
    gains: list[float] = []
    for architecture, layout, rows in zoo.families():
        before = zoo.weights(rows)
        after = alignment.apply_runs(layout, before, zoo.table["run_id"].astype(str).to_numpy()[rows])
        images = torch.rand(16, 1, 8, 8)
        outputs = [
            logits(StackedAnswer(architecture, layout), torch.from_numpy(vectors), images)
            for vectors in (before, after)
        ]
        assert torch.allclose(*outputs, atol=1e-4)
        weights = np.concatenate([np.full(t.size, not t.kind.startswith("running")) for t in layout.tensors])
        reference = alignment.references[layout.identity].vector[weights]
        closest = alignment.apply(layout, before)[:, weights]
        gain = np.linalg.norm(before[:, weights] - reference, axis=1) - np.linalg.norm(closest - reference, axis=1)
        assert (gain > -1e-4).all()
        gains.append(gain.max())
        assert np.array_equal(np.sort(after, axis=1), np.sort(before, axis=1))
    assert max(gains) > 0


def test_checkpoints_of_a_run_share_one_order(tiny_zoo: Path) -> None:
    zoo = Zoo(tiny_zoo)
    alignment = Alignment.fit(zoo, np.ones(len(zoo), bool))
    run = zoo.table["run_id"].astype(str).iloc[0]
    rows = np.flatnonzero(zoo.table["run_id"].astype(str) == run)
    layout = zoo.layout(int(rows[0]))
    moved = alignment.apply_runs(
        layout, np.stack([np.arange(layout.size, dtype=np.float32)] * len(rows)), np.full(len(rows), run)
    )
    assert (moved == moved[0]).all()


def test_references_are_chosen_among_trained_runs_only(tiny_zoo: Path) -> None:
    zoo = Zoo(tiny_zoo)
    last = zoo.table.groupby("run_id")["checkpoint"].transform("max") == zoo.table["checkpoint"]
    for layout in zoo.layouts:
        rows = np.flatnonzero(last & (zoo.table["layout"] == layout))
        trained = np.zeros(len(zoo), bool)
        worst = rows[int(np.argmin(zoo.table["train_accuracy"].to_numpy()[rows]))]
        trained[worst] = True
        for other in zoo.layouts:
            trained[np.flatnonzero(last & (zoo.table["layout"] == other))[0]] |= other != layout
        found = Alignment.fit(zoo, trained).references[layout].vector
        assert np.array_equal(found, zoo.weights(np.array([worst]))[0])


def test_layouts_without_a_training_run_keep_their_order_and_have_a_symmetry(tiny_zoo: Path) -> None:
    zoo = Zoo(tiny_zoo)
    layout = str(zoo.table["layout"].iloc[0])
    rows = np.flatnonzero(zoo.table["layout"] == layout)
    alignment = Alignment.fit(zoo, (zoo.table["layout"] != layout).to_numpy())
    assert layout not in alignment.references
    assert alignment.specs[layout] == Alignment.fit(zoo, np.ones(len(zoo), bool)).specs[layout]
    runs = zoo.table["run_id"].astype(str).to_numpy()[rows]
    assert np.array_equal(alignment.apply_runs(zoo.layouts[layout], zoo.weights(rows), runs), zoo.weights(rows))


def test_a_cache_keeps_its_alignment_and_can_match_other_networks(tiny_zoo: Path, tmp_path: Path) -> None:
    zoo = Zoo(tiny_zoo)
    build_cache(zoo, configured("weights"), tmp_path / "tokens")
    cache = TokenCache(tmp_path / "tokens")
    items = np.flatnonzero(cache.table["layout"] == zoo.table["layout"].iloc[0])
    stored = np.stack(cache.to_weights(items, cache.batch(items).tokens))
    layout = cache.layout(int(items[0]))
    assert np.array_equal(cache.alignment.apply(layout, stored).shape, stored.shape)
    again = cache.alignment.apply(layout, cache.alignment.apply(layout, stored))
    assert np.array_equal(again, cache.alignment.apply(layout, stored))


def test_networks_of_unknown_architecture_stay_as_they_are_with_a_warning(tiny_zoo: Path) -> None:
    zoo = Zoo(tiny_zoo)
    zoo.table["architecture"] = ""
    with pytest.warns(WscoreWarning, match="4 of 4 layouts are not aligned"):
        alignment = Alignment.fit(zoo, np.ones(len(zoo), bool))
    assert not alignment.references


def test_layouts_without_a_trained_run_stay_as_they_are(tiny_zoo: Path) -> None:
    zoo = Zoo(tiny_zoo)
    alignment = Alignment.fit(zoo, (zoo.table["layout"] != zoo.table["layout"].iloc[0]).to_numpy())
    assert zoo.table["layout"].iloc[0] not in alignment.references
    vectors = zoo.weights(np.array([0]))
    runs = zoo.table["run_id"].astype(str).to_numpy()[:1]
    assert np.array_equal(alignment.apply_runs(zoo.layout(0), vectors, runs), vectors)
    assert np.array_equal(alignment.apply(zoo.layout(0), vectors), vectors)
