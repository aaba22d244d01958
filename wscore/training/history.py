"""Training history: one row of metrics per epoch."""

from pathlib import Path

from wscore.io import write_csv

Row = dict[str, float | int]


class History:
    """Metrics, one row per epoch.

    Args:
        monitor: column whose lowest value marks the best epoch (`validation_loss`).

    Attributes:
        rows: per epoch `epoch` (1, 2, ...), `step` (optimizer steps so far), `lr` (of the epoch's last step), then the
            means `train_<name>` and `validation_<name>` over the items.
    """

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor
        self.rows: list[Row] = []

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def best_epoch(self) -> int:
        """Number of the first epoch with the lowest monitored value, 0 before the first epoch."""
        return int(self.best["epoch"]) if self.rows else 0

    @property
    def best(self) -> Row:
        """Row of the best epoch."""
        return min(self.rows, key=lambda row: row[self.monitor])

    def columns(self) -> dict[str, list[float | int]]:
        """Return the metrics by column."""
        return {name: [row[name] for row in self.rows] for name in self.rows[0]} if self.rows else {}

    def to_csv(self, path: Path) -> None:
        """Write one line per epoch."""
        write_csv(path, self.columns())
