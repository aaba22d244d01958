"""Checks of types and shapes at run time at a fraction of the usual cost; to be imported before wscore.

`pytest --jaxtyping-packages` wraps every function of wscore by jaxtyping, which binds and checks all arguments twice, to
give better messages: some tests took four times as long. Here beartype checks each argument and each result once, and
only functions with shapes in their annotations have a dictionary of axes. Classes, generators and functions with names
in quotes are checked as usual.
"""

import inspect
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any, ForwardRef, get_args

import jaxtyping

_USUAL = jaxtyping.jaxtyped


@wraps(_USUAL)
def jaxtyped(function: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """Return a function that checks its arguments and its result; without a function, the decorator."""
    if function is None:
        return partial(jaxtyped, typechecker=typechecker)
    if not inspect.isfunction(function) or inspect.isgeneratorfunction(function):  # those run in the call of another
        return _USUAL(function, typechecker=typechecker)
    hints = [part for annotation in function.__annotations__.values() for part in _parts(annotation)]
    if any(isinstance(hint, str | ForwardRef) for hint in hints):  # names that only type checkers know, maybe
        return _USUAL(function, typechecker=typechecker)
    checked = typechecker(function)
    shaped = any(inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray) for hint in hints)

    @wraps(function)
    def checking(*arguments: Any, **named: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:  # as while a network is traced
            return function(*arguments, **named)
        if not shaped:
            return checked(*arguments, **named)
        with _USUAL("context"):  # the sizes of axes are those of this call
            return checked(*arguments, **named)

    return checking


def _parts(annotation: Any) -> Iterator[Any]:
    """Yield an annotation and all that it is made of."""
    yield annotation
    for argument in annotation if isinstance(annotation, list) else get_args(annotation):  # a list: of a Callable
        yield from _parts(argument)


jaxtyping.jaxtyped = jaxtyped
