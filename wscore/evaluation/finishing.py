"""Methods whose decoded networks are finished as section `decode` says: ours and every control that learned its code."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from wscore.errors import DataError
from wscore.evaluation.compressed import Compressed
from wscore.evaluation.controls import Group, Method, Noise, Vectors
from wscore.evaluation.reconstruction import OURS, Probe
from wscore.models.decoded import (
    STATISTICS,
    DecodeConfig,
    has_statistics,
    recompute_statistics,
    restore_norms,
    tensor_norms,
)
from wscore.zoo.architectures import parse
from wscore.zoo.images import Images
from wscore.zoo.layout import Layout
from wscore.zoo.store import Zoo

#: Methods that are finished: what is decoded from a learned code.
FINISHED = (OURS, "ours_refined", "layout_pca_refined", "pca", "layout_pca", "layout_pca_unaligned")


class Finishing(NamedTuple):
    """What it takes to finish networks.

    Attributes:
        zoo: says how networks are built.
        images: of the task; only training images are looked at.
        config: what is done.
    """

    zoo: Zoo
    images: Images
    config: DecodeConfig


class Finished:
    """A method whose networks get the norms of the original's tensors, or running statistics of their own.

    Norms are of all tensors, but of running statistics only where these are not recomputed.

    Args:
        method: that decodes networks.
        setting: zoo, images and what is done.
    """

    def __init__(self, method: Method, setting: Finishing) -> None:
        self.method, self.setting = method, setting
        count = setting.config.batch_norm_images
        generator = torch.Generator().manual_seed(setting.config.seed)
        order = torch.randperm(len(setting.images.x_train), generator=generator)[:count]
        self.images = setting.images.x_train[order.sort().values]

    def restore(self, group: Group) -> Vectors:
        """Return the finished networks.

        Raises:
            DataError: if running statistics are to be recomputed in networks that can't be built, naming the first one.
        """
        weights = self.method.restore(group)
        if self.setting.config.norms:
            weights = restore_norms(group.layout, weights, tensor_norms(group.layout, group.weights))
        if not self.setting.config.batch_norm_images or not has_statistics(group.layout):
            return weights
        result, names = np.array(weights, np.float32), self._architectures(group)
        for name in np.unique(names).tolist():
            same = names == name
            result[same] = recompute_statistics(parse(name), group.layout, result[same], self.images)
        return result

    def floats(self, layout: Layout) -> float | None:
        """Return what the method stores and one float for each norm that is kept."""
        stored = self.method.floats(layout)
        if stored is None or not self.setting.config.norms:
            return stored
        recomputed = STATISTICS if self.setting.config.batch_norm_images else ()
        return stored + sum(tensor.kind not in recomputed for tensor in layout.tensors)

    def _architectures(self, group: Group) -> np.ndarray:
        table, images = self.setting.zoo.table, self.setting.images
        names = table["architecture"].fillna("").astype(str).to_numpy()[group.rows]
        shown = Probe(images.x_train, images.y_train, images.classes)
        for name in np.unique(names).tolist():
            if not shown.fits(name):
                raise DataError(
                    "running statistics can't be recomputed in a network that can't be built for the images of section data",
                    where=str(table["model_id"].to_numpy()[group.rows[names == name][0]]),
                    expected=f"a known architecture that takes images of {tuple(images.x_train.shape[1:])}",
                    got=name or "no architecture", fix="set decode.batch_norm_images to 0",
                )  # fmt: skip
        return names


def finish(ways: Mapping[str, Method], setting: Finishing) -> dict[str, Method]:
    """Return the methods, those of `FINISHED` with their networks finished, and the controls that follow ours following it.

    Coders of the same bytes get those of the norms too, noise is as large as the error of the finished networks.
    """
    if not setting.config.norms and not setting.config.batch_norm_images:
        return dict(ways)
    result = {name: Finished(way, setting) if name in FINISHED else way for name, way in ways.items()}
    for name, way in result.items():
        if isinstance(way, Compressed):
            result[name] = Compressed(way.coding, result[OURS])
        elif isinstance(way, Noise):
            result[name] = Noise(result[OURS], seed=way.seed)
    return result


def finishing_figures(config: DecodeConfig) -> dict[str, float]:
    """Return what was done to decoded networks, for the report; nothing if nothing was."""
    norms = {"norms_restored": 1.0} if config.norms else {}
    return norms | ({"batch_norm_images": float(config.batch_norm_images)} if config.batch_norm_images else {})
