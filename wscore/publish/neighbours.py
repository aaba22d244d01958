"""Finds the networks of a zoo nearest to a latent."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from jaxtyping import Float

from wscore.errors import DataError, ModelError
from wscore.hub.client import download
from wscore.hub.fetch import parse_source
from wscore.io import read_json
from wscore.zoo.store import read_metadata


class Neighbours(NamedTuple):
    """Networks with their latents.

    Attributes:
        latents: (N, Z).
        table: their metadata, in the same order, with `model_id` and `split`.
    """

    latents: Float[np.ndarray, "networks latent"]
    table: pd.DataFrame

    @classmethod
    def load(cls, text: str, encoder: str) -> "Neighbours":
        """Return published representations, or those of the pipeline.

        Args:
            text: a folder, or a data set `owner/name[@revision]` on the Hub.
            encoder: hash of the required encoder.

        Raises:
            DataError: if there are none, or the Hub refuses or can't be reached.
            ModelError: if another encoder made them.
        """
        source = parse_source(text)
        folder = Path(source.name)
        if not folder.is_dir():
            folder = download(source.name, source.revision, kind="dataset", patterns=["*.parquet", "*.json"])
        parts = sorted(folder.glob("data/*.parquet")) or sorted(folder.glob("representations.parquet"))
        if not parts:
            fix = "run `dvc repro publish`, or name published representations with --among"
            raise DataError("no representations here", where=folder, expected="data/*.parquet", fix=fix)
        maker = read_json(folder / "manifest.json").get("encoder")
        if maker != encoder:
            raise ModelError(
                "the representations were made by another encoder", where=folder, expected=encoder, got=maker
            )
        tables = [_read(part) for part in parts]
        return cls(np.concatenate([latents for latents, _ in tables]), pd.concat([table for _, table in tables]))

    def nearest(self, latent: Float[np.ndarray, " latent"], count: int) -> list[dict[str, Any]]:
        """Return the metadata of the nearest networks, nearest first, with their Euclidean `distance`.

        Raises:
            ModelError: if the latent has another length.
        """
        if latent.shape[0] != self.latents.shape[1]:
            raise ModelError("the latent does not fit", expected=self.latents.shape[1], got=latent.shape[0])
        distances = np.linalg.norm(self.latents.astype(np.float64) - latent, axis=1)
        order = np.argsort(distances, kind="stable")[:count]
        rows = self.table.iloc[order].assign(distance=distances[order])
        plain = rows.astype(object).where(rows.notna(), None)
        return [{str(name): _python(value) for name, value in row.items()} for row in plain.to_dict(orient="records")]


def _read(part: Path) -> tuple[np.ndarray, pd.DataFrame]:
    column = pq.ParquetFile(part).read(columns=["latent"]).column("latent").combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    table = read_metadata(part)
    split = {} if "split" in table else {"split": part.name.partition("-")[0]}
    return flat.reshape(len(table), -1).astype(np.float32), table.drop(columns=["latent"]).assign(**split)


def _python(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
