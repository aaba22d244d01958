"""Whole numbers and runs of bytes inside a file."""

from wscore.errors import DataError


class Reader:
    """Reads the body of a file from a place on.

    Args:
        body: bytes.
        place: of the next byte.
    """

    def __init__(self, body: bytes, place: int = 0) -> None:
        self.body, self.place = body, place

    def take(self, size: int) -> bytes:
        """Return the next bytes.

        Raises:
            DataError: if there are fewer.
        """
        taken = self.body[self.place : self.place + size]
        if len(taken) < size:
            raise DataError("ends too early", expected=f"{size} more bytes", got=len(taken))
        self.place += size
        return taken

    def number(self) -> int:
        """Return what `number` wrote.

        Raises:
            DataError: if it is none.
        """
        value = 0
        for shift in range(0, 35, 7):
            (byte,) = self.take(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise DataError("is damaged: a number is too long")

    def sized(self) -> bytes:
        """Return what `sized` wrote."""
        return self.take(self.number())


def number(value: int) -> bytes:
    """Return a whole number from 0, seven bits to a byte.

    >>> list(number(5)), list(number(300)), Reader(number(300)).number()
    ([5], [172, 2], 300)
    """
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def sized(data: bytes) -> bytes:
    """Return bytes behind their count.

    >>> Reader(sized(b"abc")).sized()
    b'abc'
    """
    return number(len(data)) + data
