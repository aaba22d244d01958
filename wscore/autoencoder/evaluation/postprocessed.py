"""Methods whose decoded networks are finished as section `decode` says: ours and every control that learned its code."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from wscore.autoencoder.coding.postprocess import (
    STATISTICS,
    DecodeConfig,
    has_statistics,
    recompute_statistics,
    restore_norms,
    tensor_norms,
)
from wscore.autoencoder.evaluation.controls import Group, Method, Noise, Vectors
from wscore.autoencoder.evaluation.evaluate import BY_CURVATURE, OURS
from wscore.autoencoder.evaluation.size_matched_coders import Compressed
from wscore.errors import DataError
from wscore.networks.architectures import parse
from wscore.networks.datasets import Kind, Tasks, as_tasks, kinds_of
from wscore.networks.images import Images
from wscore.networks.layout import Layout
from wscore.zoo.store import Zoo

#: Methods that are finished: what is decoded from a learned code.
FINISHED = (OURS, "ours_refined", BY_CURVATURE, "layout_pca_refined", "pca", "layout_pca", "layout_pca_unaligned")


class Finishing(NamedTuple):
    """What it takes to finish networks.

    Attributes:
        zoo: says how networks are built.
        images: of every data set, each for its own networks; only training images are looked at.
        config: what is done.
    """

    zoo: Zoo
    images: Images | Tasks
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
        self.tasks, self.images = as_tasks(setting.images), {}
        for one in self.tasks.images:
            generator = torch.Generator().manual_seed(setting.config.seed)
            order = torch.randperm(len(one.x_train), generator=generator)[: setting.config.batch_norm_images]
            self.images[one.name] = one.x_train[order.sort().values]

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
        result, kinds = np.array(weights, np.float32), self._kinds(group)
        for kind in sorted(set(kinds)):
            same = np.array([one == kind for one in kinds])
            known, images = parse(kind.architecture), self.images[kind.task]
            result[same] = recompute_statistics(known, group.layout, result[same], images)
        return result

    def floats(self, layout: Layout) -> float | None:
        """Return what the method stores and one float for each norm that is kept."""
        stored = self.method.floats(layout)
        if stored is None or not self.setting.config.norms:
            return stored
        recomputed = STATISTICS if self.setting.config.batch_norm_images else ()
        return stored + sum(tensor.kind not in recomputed for tensor in layout.tensors)

    def _kinds(self, group: Group) -> list[Kind]:
        table = self.setting.zoo.table.iloc[group.rows]
        kinds = kinds_of(table, self.tasks)
        for kind, name in zip(kinds, table["model_id"], strict=True):
            way = self.tasks.way(kind, group.layout)
            if way.answer is None or not kind.architecture:
                raise DataError(
                    "running statistics can't be recomputed in a network that can't be built for the images of section data",
                    where=str(name), expected="a known architecture that takes the images of its data set",
                    got=way.reason or "a network of data.factories", fix="set decode.batch_norm_images to 0",
                )  # fmt: skip
        return kinds


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
