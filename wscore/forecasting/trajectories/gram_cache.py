"""Inner products of trajectories on disk: computed once, for every training and evaluation of a predictor.

data/grams/
  index.json           hash of the trajectory behind each file
  seed-0.safetensors   `grams` float64 [L, N, N], as `snapshot_grams` returns them
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from wscore.errors import DataError
from wscore.forecasting.trajectories.grams import snapshot_grams
from wscore.forecasting.trajectories.store import Trajectory, identities
from wscore.io import read_json, read_tensors, write_json, write_tensors

INDEX, GRAMS = "index.json", "grams"


def write_grams(folder: Path, runs: Sequence[Trajectory]) -> int:
    """Write the inner products of each trajectory into a folder; return how many numbers they are."""
    count = 0
    for run in runs:
        grams = snapshot_grams(run.weights, run.layout)
        write_tensors(_file(folder, run), {GRAMS: grams})
        count += grams.numel()
    write_json(Path(folder) / INDEX, dict(zip((run.name for run in runs), identities(runs), strict=True)))
    return count


def read_grams(folder: Path, runs: Sequence[Trajectory]) -> Mapping[str, Float[Tensor, "tensor snapshot snapshot"]]:
    """Return the inner products of trajectories by the name of the run.

    Raises:
        DataError: if one is missing or was made of another recording.
    """
    path, advice = Path(folder) / INDEX, "run `dvc repro cache_grams`"
    if not path.is_file():
        raise DataError("holds no inner products of trajectories", where=folder, expected=INDEX, fix=advice)
    index = read_json(path)
    for run, identity in zip(runs, identities(runs), strict=True):
        if index.get(run.name) != identity:
            raise DataError(f"are not those of {run.folder}", where=f"{path}: {run.name}", fix=advice)
    return {run.name: read_tensors(_file(folder, run))[GRAMS] for run in runs}


def _file(folder: Path, run: Trajectory) -> Path:
    return Path(folder) / f"{run.name}.safetensors"
