"""Entry point of stage scripts: command line, params, a tracked run, and one-line errors for bad input.

    @stage(tokens=TokensConfig)
    def main(run: Run, *, zoo: Path, out: Path) -> str:
        ...
        return "4,096 networks tokenized"      # the summary line

defines `python -m stages.tokenize_zoo --zoo data/zoo --out data/tokens`. Keyword-only parameters become command-line
options of their annotated type (`Path`, `str`, `int`, `float`, a `Literal`, or a list of these); those with a default
are optional. The sections named in the decorator are loaded, validated and passed as `run.params`.
"""

import argparse
import errno
import inspect
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin

from threadpoolctl import threadpool_limits

from wscore.config import PARAMS, load_key, load_machine, load_section, read_yaml
from wscore.errors import WscoreError, WscoreWarning, printable
from wscore.interrupt import INTERRUPTED
from wscore.io import is_first_process
from wscore.tracking import Tracker, open_tracker

OutputFunction = Callable[..., str]
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
THREADS = 2  # by default
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


class Run(NamedTuple):
    """Context of a running stage.

    Attributes:
        name: of the stage in dvc.yaml (`train_heads@accuracy`).
        params: validated sections by name.
        tracker: logs params, metrics and files of this run; does nothing when tracking is off.
    """

    name: str
    params: Mapping[str, Any]
    tracker: Tracker


class Stage:
    """Main function of a stage script and the sections of params.yaml that it reads.

    Attributes:
        function: the decorated function.
        sections: configuration class of each section, or type of a single key (`ae.compression`).
        module: name of the module, as in `python -m`.
    """

    def __init__(self, function: OutputFunction, sections: Mapping[str, Any]) -> None:
        self.function = function
        self.sections = dict(sections)
        self.module = _module_name(function)

    @property
    def name(self) -> str:
        """Name in dvc.yaml if run by DVC, else the name of the script."""
        return os.environ.get("DVC_STAGE") or self.module.rpartition(".")[2]

    def __call__(self, arguments: Sequence[str] | None = None) -> None:
        """Run the stage; exit with status 1 and one line on stderr if the input is bad or the disk is full.

        SIGTERM (batch systems, `kill`) is handled as Ctrl-C: partial outputs are removed and the tracked run ends KILLED.
        """
        options = vars(self.parser().parse_args(arguments))
        try:
            with _short_warnings(self.name), _stopped_by_signals():
                summary = self.run(**options)
        except WscoreError as error:
            sys.exit(f"{self.name}: {' '.join(str(error).split())}")
        except OSError as error:
            if error.errno not in (*FULL, *REFUSED) and not _is_short(error):
                raise
            sys.exit(f"{self.name}: {_explain(error)}")
        except KeyboardInterrupt:
            sys.stderr.write(f"{self.name}: interrupted\n")
            sys.exit(INTERRUPTED)
        if is_first_process():
            print(summary)  # noqa: T201

    def run(self, **options: Any) -> str:
        """Load params, open the tracked run and call the function; returns its summary line.

        Raises:
            ConfigError: if params.yaml is missing, unreadable or invalid.
        """
        load = lambda name: load_key if "." in name else load_section  # noqa: E731
        params = {name: load(name)(kind, name, self.source(name)) for name, kind in self.sections.items()}
        _set_threads(load_machine().threads)
        with open_tracker(self.name, params) as tracker:
            return self.function(Run(self.name, params, tracker), **options)

    def source(self, name: str) -> Path:
        """Return the file that holds a section; studies keep their own next to the script."""
        own = Path(*self.module.split(".")[:-1]) / PARAMS
        return own if self.module.startswith("studies.") and own.is_file() and name in read_yaml(own) else PARAMS

    def parser(self) -> argparse.ArgumentParser:
        """Return a parser with one option per keyword-only parameter; help is taken from the function's docstring."""
        text, _, rest = inspect.cleandoc(self.function.__doc__ or "").partition("\nArgs:\n")
        sections = ", ".join(self.sections) or "none"
        parser = argparse.ArgumentParser(
            prog=f"python -m {self.module}",
            description=text.strip(),
            epilog=f"Reads these sections of {PARAMS}: {sections}. Runs with the others by `dvc repro`.",
        )
        helps = dict(re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", rest, re.MULTILINE))
        for parameter in inspect.signature(self.function, eval_str=True).parameters.values():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                help_text = " ".join(helps.get(parameter.name, "").split()).replace("%", "%%")
                parser.add_argument(f"--{parameter.name.replace('_', '-')}", help=help_text, **_option(parameter))
        return parser


def stage(**sections: Any) -> Callable[[OutputFunction], Stage]:
    """Return a decorator that turns a function into a stage reading these sections of params.yaml."""
    return lambda function: Stage(function, sections)


def _option(parameter: inspect.Parameter) -> dict[str, Any]:
    """Return the argparse options of a parameter: type, choices, number of values, required or not."""
    kind: Any = parameter.annotation
    if NoneType in get_args(kind):
        kind = next(part for part in get_args(kind) if part is not NoneType)
    required = parameter.default is inspect.Parameter.empty
    option: dict[str, Any] = {"required": True} if required else {"default": parameter.default}
    if get_origin(kind) is list:
        kind, option["nargs"] = get_args(kind)[0], "+"
    if get_origin(kind) is Literal:
        return {**option, "choices": get_args(kind)}
    metavar = {Path: "PATH", int: "NUMBER", float: "NUMBER"}.get(kind, "TEXT")
    return {**option, "type": kind, "metavar": metavar}


def _set_threads(count: int | None) -> None:
    """Set the threads of torch and of the libraries below numpy and scikit-learn: equal results with any number of cores."""
    if count is None and "OMP_NUM_THREADS" in os.environ:
        return
    threadpool_limits(count or THREADS)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count or THREADS)


def _module_name(function: OutputFunction) -> str:
    """Return the function's module, resolving `__main__` to the module run by `python -m`."""
    if function.__module__ != "__main__":
        return function.__module__
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec is not None else Path(sys.argv[0]).stem


def _is_short(error: OSError) -> bool:
    """Return whether numpy hit a full disk: it raises `8000 requested and 120 written` without an error number."""
    return error.errno is None and "requested and" in str(error)


def _explain(error: OSError) -> str:
    reason = "No space left on device" if _is_short(error) else error.strerror or str(error)
    where = f"{printable(error.filename)}: " if error.filename else ""
    rejected = error.errno in REFUSED
    advice = "check the permissions and run again" if rejected else "free some space and run again"
    return f"{where}{reason}; {advice}"


@contextmanager
def _short_warnings(name: str) -> Iterator[None]:
    """Print warnings of wscore as one line each, without file and code."""
    usual = warnings.formatwarning

    def short(message: Any, category: Any, *details: Any, **options: Any) -> str:
        if issubclass(category, WscoreWarning):
            return f"{name}: warning: {printable(message)}\n"
        return usual(message, category, *details, **options)

    warnings.formatwarning = short
    try:
        yield
    finally:
        warnings.formatwarning = usual


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and, unless it is ignored, on Ctrl-C."""
    numbers = [signal.SIGTERM, *([] if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else [signal.SIGINT])]
    usual = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
