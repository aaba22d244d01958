"""The figures of the last evaluation in the README: its table between two markers, its picture beside the docs.

python -m wscore.report.readme --table metrics/table.md --picture plots/evaluate/summary.png
"""

import argparse
import sys
from pathlib import Path

from wscore.errors import PublishError, WscoreError
from wscore.io import atomic_file, write_text

BEGIN, END = "<!-- table:begin -->", "<!-- table:end -->"


def fill_table(readme: Path, table: Path) -> None:
    """Replace what stands between the markers of a README by a table.

    Raises:
        PublishError: if the table is missing, or the README does not have both markers once, in order.
    """
    if not table.is_file():
        raise PublishError("no such file", where=table, fix="run `make repro` first")
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise PublishError("markers are missing", where=readme, expected=f"{BEGIN} and, below it, {END}")
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    write_text(readme, f"{head}{BEGIN}\n{table.read_text(encoding='utf-8').strip()}\n{END}{tail}")


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
    """Fill in the README of the current folder; a missing file ends with status 1 and one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m wscore.report.readme", description="Put figures into README.md.")
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--picture", type=Path, required=True)
    options = parser.parse_args()
    try:
        fill_table(Path("README.md"), options.table)
        copy_picture(options.picture, Path("docs/summary.png"))
    except WscoreError as error:
        sys.exit(f"readme: {error}")


if __name__ == "__main__":
    main()
