"""Small greyscale images of the first layers of networks, for the map of networks."""

import math
from collections.abc import Sequence

import numpy as np

WIDEST = 72  # pixels of the image of one network
SHEET = 4_000_000  # pixels of all images together


def first_layer_images(layers: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
    """Return an image (height, width) of the first units of each layer side by side, NaN between them.

    Args:
        layers: first weight (units, channels, height, width) or (units, inputs) of each network, or None. A convolution
            shows its first channel; a linear layer is drawn as a square image where its inputs fill one, else as a row.
    """
    pixels = SHEET // max(1, len(layers))
    return [None if layer is None else _image(layer, pixels) for layer in layers]


def _image(layer: np.ndarray, pixels: int) -> np.ndarray | None:
    filters = _filters(np.asarray(layer, np.float32))
    if filters is None or not filters.size:
        return None
    step = max(-(-filters.shape[2] // WIDEST), math.ceil(math.sqrt(filters[0].size / pixels)))
    filters = filters[:, ::step, ::step]
    height, width = filters.shape[1], filters.shape[2] + 1
    count = max(1, min(WIDEST + 1, pixels // height) // width)
    framed = np.pad(filters[:count], ((0, 0), (0, 0), (0, 1)), constant_values=np.nan)  # (F, H, W + 1)
    return np.concatenate(list(framed), axis=1)[:, :-1]


def _filters(layer: np.ndarray) -> np.ndarray | None:
    """Return the filters (F, H, W) of a layer, or None for a layer of other axes."""
    if layer.ndim == 4:
        return layer[:, 0]
    if layer.ndim != 2:
        return None
    side = math.isqrt(layer.shape[1])
    return layer.reshape(len(layer), side, side) if side**2 == layer.shape[1] else layer[:, None, :]
