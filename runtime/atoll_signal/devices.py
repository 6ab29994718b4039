"""What is kept per device, for a bounded number of them: the one silent longest goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Devices(Generic[Item]):
    """Items by device.

    Attributes:
        most: For how many at the most.
        forgotten: How many devices were forgotten to make room.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._items: OrderedDict[str, Item] = OrderedDict()
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[tuple[str, Item]]:
        return iter(list(self._items.items()))

    def get(self, device: str) -> Item | None:
        """Return the item of ``device``, which has just spoken."""
        item = self._items.get(device)
        if item is not None:
            self._items.move_to_end(device)
        return item

    def put(self, device: str, item: Item) -> None:
        """Keep ``item`` for ``device``."""
        while device not in self._items and len(self._items) >= self.most:
            self._items.popitem(last=False)
            self.forgotten += 1
        self._items[device] = item
        self._items.move_to_end(device)
