"""Images of features: the decoder row of a latent, split into the tensors of its entries."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from wscore.networks.architectures import parse
from wscore.networks.layout import TensorSpec
from wscore.sae.evaluation.evaluate import CodeStatistics, Dictionary
from wscore.sae.evaluation.explain import Activity, main_kinds
from wscore.sae.rows import UnitRows, tensor_of
from wscore.zoo.store import Zoo

Image = Float[np.ndarray, "_ _"]


class Portrait(NamedTuple):
    """One feature to plot.

    Attributes:
        title: short description, a few lines.
        images: parts of its decoder row as images (H, W), side by side; other parts are single rows.
        names: of the parts.
    """

    title: str
    images: Sequence[Image]
    names: Sequence[str]


def portraits(
    dictionary: Dictionary, zoo: Zoo, train: Activity, codes: CodeStatistics, features: pd.DataFrame, count: int
) -> list[Portrait]:
    """Return the features that best track a property on held-out networks of the same shapes.

    The best feature of every property comes first, then the second of every property, and so on; within a property they
    are ordered by adjusted p-value, ties by mean activation.
    """
    if features.empty or dictionary.model.config.decoder_hidden:
        return []
    table = features[features["scope"] == "same_shapes"].set_index("latent")
    everything = features[features["scope"] == "all"].set_index("latent")
    best = sorted(table.index, key=lambda latent: (table.loc[latent, "q"], -codes.activation[latent]))
    turns = table.loc[best].groupby("property", sort=False).cumcount()
    order = turns.sort_values(kind="stable").index[:count].tolist()
    directions, mains = dictionary.model.dictionary().numpy(), main_kinds(train)
    made = []
    for latent in order:
        images, names = _picture(dictionary, zoo, directions[latent], int(mains[latent]))
        lines = [f"latent {latent}, on {codes.density[latent]:.2%} of rows", str(table.loc[latent, "layer"])]
        lines += [f"all: {_told(everything.loc[latent])}", f"same shapes: {_told(table.loc[latent])}"]
        made.append(Portrait("\n".join(lines), images, names))
    return made


def tile(filters: Float[np.ndarray, "filter height width"]) -> Image:
    """Tile filters into a nearly square image, separated by NaN."""
    count, height, width = filters.shape
    across = int(np.ceil(np.sqrt(count)))
    down = -(-count // across)
    picture = np.full((down * (height + 1) - 1, across * (width + 1) - 1), np.nan)
    for number, pixels in enumerate(filters):
        top, left = number // across * (height + 1), number % across * (width + 1)
        picture[top : top + height, left : left + width] = pixels
    return picture


def _picture(dictionary: Dictionary, zoo: Zoo, direction: np.ndarray, kind: int) -> tuple[list[Image], list[str]]:
    """Return the parts of a decoder row, interpreted as its main kind of row."""
    if not isinstance(dictionary.rows, UnitRows):
        return [direction[None]], ["latent"]
    name, row = dictionary.rows.kinds[kind]
    units = dictionary.rows.maps[name]
    layout = zoo.layouts[name]
    text = str(zoo.table.loc[zoo.table["layout"].astype(str) == name, "architecture"].iloc[0])
    pixels = parse(text).input if text else None
    specs = {spec.name: spec for spec in layout.tensors}
    parts = tensor_of(layout, units.weights[units.names.index(row)])
    images = [_shape(specs[tensor], direction[span], pixels) for tensor, span in parts]
    return images, [tensor for tensor, _ in parts]


def _shape(spec: TensorSpec, values: np.ndarray, pixels: tuple[int, int, int] | None) -> Image:
    """Return the entries of one tensor as image filters or pixels where complete, else as one row."""
    if spec.kind == "conv" and len(spec.shape) == 4 and len(values) % (spec.shape[2] * spec.shape[3]) == 0:
        return tile(values.reshape(-1, *spec.shape[2:]))
    if spec.kind == "linear" and pixels is not None and spec.shape[1] == len(values) == int(np.prod(pixels)):
        return tile(values.reshape(pixels))
    return values[None]


def _told(row: Any) -> str:
    sign = "AUROC" if row["kind"] == "binary" else "rho"
    return f"{row['property']} {sign} {row['score']:.2f}{'*' if row['discovered'] else ''}"
