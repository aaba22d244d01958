"""What every stage script shares: paths from the command line, sections from params.yaml, one tracked run, one error line.

    @stage(tokens=TokensConfig)
    def main(run: Run, *, zoo: Path, out: Path) -> str:
        ...
        return "4,096 networks tokenized"      # the summary line

makes `python -m stages.tokenize_zoo --zoo data/zoo --out data/tokens` of it. Keyword-only parameters are command-line options;
the sections named in the decorator are loaded, validated and handed over in `run.params`.
"""

import argparse
import errno
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wscore.config import load_section
from wscore.errors import WscoreError
from wscore.tracking import Tracker, open_tracker

OutputFunction = Callable[..., str]


class Run(NamedTuple):
    """What a stage is given besides its paths.

    Attributes:
        name: name of the stage as DVC knows it (`train_heads@accuracy`).
        params: validated sections by name.
        tracker: where params, metrics and files of this run are logged; silent when tracking is off.
    """

    name: str
    params: Mapping[str, Any]
    tracker: Tracker


class Stage:
    """A stage script's main function together with the sections of params.yaml that it reads.

    Attributes:
        sections: configuration class of each section.
        function: the decorated function.
    """

    def __init__(self, function: OutputFunction, sections: Mapping[str, type]) -> None:
        self.function = function
        self.sections = dict(sections)
        self.name = function.__module__.rpartition(".")[2]

    def __call__(self, arguments: Sequence[str] | None = None) -> None:
        """Run the stage; exit with status 1 and one line on stderr if the input is bad."""
        options = vars(self.parser().parse_args(arguments))
        try:
            print(self.run(**options))  # noqa: T201
        except WscoreError as error:
            sys.exit(f"{self.name}: {error}")
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
                raise
            sys.exit(f"{self.name}: cannot write {error.filename}: {error.strerror}; free some space and run again")
        except KeyboardInterrupt:
            sys.exit(130)

    def run(self, **paths: Any) -> str:
        """Load params, open the tracked run and call the function; returns its summary line."""
        params = {name: load_section(kind, name) for name, kind in self.sections.items()}
        name = os.environ.get("DVC_STAGE", self.name)
        with open_tracker(name, params) as tracker:
            return self.function(Run(name, params, tracker), **paths)

    def parser(self) -> argparse.ArgumentParser:
        """Return a parser with one required option per keyword-only parameter of the function."""
        parser = argparse.ArgumentParser(prog=f"python -m {self.function.__module__}", description=self.function.__doc__)
        for parameter in inspect.signature(self.function).parameters.values():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                several = parameter.annotation == list[Path]
                kind = Path if several else parameter.annotation
                parser.add_argument(f"--{parameter.name.replace('_', '-')}", type=kind, required=True, nargs="+" if several else None)
        return parser


def stage(**sections: type) -> Callable[[OutputFunction], Stage]:
    """Return a decorator that makes a stage of a function reading these sections of params.yaml."""
    return lambda function: Stage(function, sections)
