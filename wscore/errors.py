"""Errors that a user can act on: what went wrong, where, what was expected and what to do next."""


def printable(text: object) -> str:
    """Return a text in one line with its control characters, escapes of terminals and broken letters written out."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape", "surrogatepass").decode() for sign in str(text)
    )


class WscoreError(Exception):
    """One clear sentence for the user; stages print it without a traceback and exit with status 1.

    Args:
        what: what went wrong, in one clause.
        where: dotted parameter key or file path concerned.
        expected: what would have been right.
        got: what was found instead.
        fix: the next command or edit to make.

    >>> print(WscoreError("is no folder", where="zoo.path", expected="a folder", got="net.pt", fix="name its folder"))
    zoo.path: is no folder; expected a folder; got net.pt; name its folder
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        got: object = None,
        fix: str | None = None,
    ) -> None:
        parts = [what if where is None else f"{printable(where)}: {what}"]
        if expected is not None:
            parts.append(f"expected {printable(expected)}")
        if got is not None:
            parts.append(f"got {printable(got)}")
        if fix is not None:
            parts.append(fix)
        super().__init__("; ".join(parts))


class ConfigError(WscoreError):
    """A parameter in params.yaml is unknown, missing, of the wrong type or out of range."""


class DataError(WscoreError):
    """An image data set, zoo, cache or trajectory on disk is missing, malformed or does not fit."""


class ModelError(WscoreError):
    """A model folder is missing, altered, of another class or does not fit the data."""


class TrainingError(WscoreError):
    """Training cannot go on, for example because the loss is not finite."""


class PublishError(WscoreError):
    """A published folder or an upload cannot be made."""


class WscoreWarning(UserWarning):
    """Something was skipped or switched off and the work goes on; stages print it as one line."""
