"""Compute the inner products of the recorded trajectories once, from which predictors learn."""

from pathlib import Path

from wscore.forecasting.trajectories.gram_cache import write_grams
from wscore.forecasting.trajectories.store import open_trajectories
from wscore.io import atomic_folder
from wscore.runner import Run, stage


@stage()
def main(run: Run, *, trajectories: Path, out: Path) -> str:
    """Write the inner products of the snapshots of every trajectory."""
    runs = open_trajectories(trajectories)
    with atomic_folder(out) as folder:
        numbers = write_grams(folder, runs)
    run.tracker.log_metrics({"grams": {"runs": float(len(runs)), "numbers": float(numbers)}})
    return f"inner products of {len(runs)} trajectories, {numbers:,} numbers"


if __name__ == "__main__":
    main()
