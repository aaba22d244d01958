"""Cache of bounded size for per-layout arrays."""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Cached values by key; the oldest are dropped when their total size exceeds `limit`.

    Args:
        limit: maximum total size; the newest value is kept even if it is larger.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._values: dict[str, tuple[T, int]] = {}
        self._total = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str, make: Callable[[], T], *, size: Callable[[T], int]) -> T:
        """Return the value of `key`, computed if it is not cached."""
        if key not in self._values:
            value = make()
            self._values[key] = value, size(value)
            self._total += self._values[key][1]
            self._shrink()
        return self._values[key][0]

    def _shrink(self) -> None:
        while self._total > self.limit and len(self._values) > 1:
            _, size = self._values.pop(next(iter(self._values)))
            self._total -= size
