"""Writes results to the documentation: front table of README.md, docs/results.md and summary picture.

python -m wscore.report.readme --metrics metrics --picture plots/evaluate/summary.png
"""

import argparse
import sys
from pathlib import Path

from wscore.errors import PublishError, WscoreError
from wscore.io import atomic_file, write_text
from wscore.report.front import front_table
from wscore.report.table import gather, table_markdown

BEGIN, END = "<!-- table:begin -->", "<!-- table:end -->"
RESULTS = """# Results

Written by `make readme` from `metrics/`: all metrics of the last run of the pipeline, on held-out training runs, next
to baselines. Definitions: [metrics](metrics.md).
"""


def fill_table(readme: Path, table: str) -> None:
    """Replace the text between the markers of a README by a table.

    Raises:
        PublishError: if the README does not have both markers once, in order.
    """
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise PublishError("markers are missing", where=readme, expected=f"{BEGIN} and, below it, {END}")
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    write_text(readme, f"{head}{BEGIN}\n{table.strip()}\n{END}{tail}")


def copy_picture(picture: Path, target: Path) -> None:
    """Copy a picture.

    Raises:
        PublishError: if it is missing.
    """
    if not picture.is_file():
        raise PublishError("no such file", where=picture, fix="run `make repro` first")
    with atomic_file(target) as temporary:
        temporary.write_bytes(picture.read_bytes())


def main() -> None:
    """Update the documentation in the current folder; a missing file gives exit status 1 and one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m wscore.report.readme", description="Write results to the documentation."
    )
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--picture", type=Path, required=True)
    options = parser.parse_args()
    try:
        parts = gather(options.metrics)
        fill_table(Path("README.md"), front_table(parts))
        write_text(Path("docs/results.md"), f"{RESULTS}\n{table_markdown(parts)}")
        copy_picture(options.picture, Path("docs/summary.png"))
    except WscoreError as error:
        sys.exit(f"readme: {error}")


if __name__ == "__main__":
    main()
