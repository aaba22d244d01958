"""Error classes with actionable messages: what went wrong, where, what was expected and how to fix it."""


def printable(text: object) -> str:
    """Return a text with control characters, terminal escapes and invalid characters written as backslash escapes."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape", "surrogatepass").decode() for sign in str(text)
    )


class WscoreError(Exception):
    """Base class of errors for the user, with a one-line message; stages print it without a traceback and exit with 1.

    Args:
        what: what went wrong, in one clause.
        where: dotted parameter key or file path.
        expected: valid value.
        got: actual value.
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
        self.what, self.fix = what, fix
        parts = [what if where is None else f"{printable(where)}: {what}"]
        if expected is not None:
            parts.append(f"expected {printable(expected)}")
        if got is not None:
            parts.append(f"got {printable(got)}")
        if fix is not None:
            parts.append(fix)
        super().__init__("; ".join(parts))


class ConfigError(WscoreError):
    """A parameter is unknown, missing, of the wrong type or out of range."""


class DataError(WscoreError):
    """An image data set, zoo, cache or trajectory on disk is missing, malformed or inconsistent."""


class ModelError(WscoreError):
    """A model folder is missing, altered, of the wrong class or incompatible with the data."""


class TrainingError(WscoreError):
    """Training cannot continue, for example because the loss is not finite."""


class PublishError(WscoreError):
    """A published folder or an upload cannot be made."""


class WscoreWarning(UserWarning):
    """Something was skipped or disabled and the run continues; stages print it as one line."""
