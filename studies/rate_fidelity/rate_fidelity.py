"""Rate and fidelity: every method evaluated at every size on the same held-out networks."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import pandas as pd

from wscore.autoencoder.coding.refine import RefineConfig
from wscore.autoencoder.evaluation.evaluate import OURS, draw_probe_images, evaluate, held_out, methods
from wscore.autoencoder.evaluation.refined import Refinement
from wscore.autoencoder.evaluation.report import autoencoder_report
from wscore.autoencoder.evaluation.size_matched import sized_controls
from wscore.autoencoder.models.autoencoder import load_autoencoder, load_latent_code
from wscore.config import Section
from wscore.evaluation.config import EvaluateConfig
from wscore.evaluation.partial_results import Parts, Records
from wscore.networks.datasets import Tasks
from wscore.networks.images import Images
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo

COLUMNS = (
    "stored_floats", "compression_ratio", "agreement", "agreement_low", "agreement_high", "accuracy_change",
    "rank_correlation", "accuracy", "accuracy_original", "kl_median", "r2", "diversity",
    "nearest_training_distance",
)  # fmt: skip


class RateFidelityConfig(Section):
    """Sizes of the study (section `rate_fidelity:`).

    Args:
        latent_bits: average bits per latent dimension, one autoencoder each; otherwise as in section `ae`.
        networks: evaluated held-out networks, the same at every size.
    """

    latent_bits: Annotated[tuple[Annotated[float, msgspec.Meta(gt=0, le=32)], ...], msgspec.Meta(min_length=1)]
    networks: Annotated[int, msgspec.Meta(ge=1)]


def curve(
    zoo: Zoo,
    cache: TokenCache,
    models: Mapping[float, Path],
    images: Images | Tasks,
    config: EvaluateConfig,
    refine: RefineConfig | None = None,
    parts: Parts | None = None,
) -> pd.DataFrame:
    """Return one row per size and method: latent_bits, method and `COLUMNS`, over the networks of the test split.

    Function metrics are missing if no network can be evaluated, sizes if a method is not a compressed code.

    Args:
        zoo: the networks.
        cache: their tokens.
        models: folder of the autoencoder of each size.
        images: on which networks are compared.
        config: of the evaluation.
        refine: refinement of latents, or None.
        parts: cache of the rows of completed sizes.
    """
    refinement = None if refine is None else Refinement(zoo, images, refine)
    rows, shown = held_out(cache, config), draw_probe_images(images, config)

    def judged(size: float, folder: Path) -> Records:
        ways = methods(cache, load_autoencoder(folder), config, refinement, load_latent_code(folder / "decoder"))
        ways |= sized_controls(zoo, cache, ways[OURS], config)
        found = autoencoder_report(evaluate(zoo, rows, ways, shown, cache=cache, batch_size=config.batch_size), config)
        values = {name: {column: found[name].get(column, float("nan")) for column in COLUMNS} for name in ways}
        return [{"latent_bits": size, "method": name, **own} for name, own in values.items()]

    parts, records = parts or Parts(None), []
    for size, folder in sorted(models.items()):
        records += parts(str(size), partial(judged, size, folder))
    return pd.DataFrame(records)


def wide(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return one row per size, by the stored floats of ours, with one column per method that is a compressed code."""
    codes = table.dropna(subset=["stored_floats"])
    names = list(dict.fromkeys(codes["method"]))
    values = codes.pivot_table(index="latent_bits", columns="method", values=metric, dropna=False, sort=False)[names]
    sizes = codes[codes["method"] == OURS].set_index("latent_bits")["stored_floats"]
    return values.sort_index().assign(stored_floats=sizes).reset_index()


def sentence(table: pd.DataFrame) -> str:
    """Return the agreement of ours at every size in one line."""
    ours = pd.DataFrame(table[table["method"] == OURS]).sort_values(by="latent_bits")
    parts = [
        f"{agreement:.3f} at {ratio:.1f}x"
        for agreement, ratio in zip(ours["agreement"], ours["compression_ratio"], strict=True)
    ]
    return f"agreement {', '.join(parts)}"
