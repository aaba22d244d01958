"""Writes a template with which `dvc plots show` makes a page that needs no network: the Vega libraries are inside.

python -m wscore.offline_plots --out .dvc/tmp/plots.html
"""

import argparse
from pathlib import Path

from wscore.io import write_text

VEGA_LITE = "5.21"  # the specifications of DVC are for version 5
TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>DVC plots</title>
<link rel="icon" href="data:,">
{refresh_tag}
<style>body { font-family: system-ui, sans-serif; margin: 1rem; } img { max-width: 100%; }</style>
<script>LIBRARIES</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def write_template(path: Path) -> None:
    """Write the template; DVC fills in `{plot_divs}` and `{refresh_tag}`, and has no place for its links to libraries."""
    import vl_convert

    libraries = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE).replace(
        "</script", "<\\/script"
    )
    write_text(path, TEMPLATE.replace("LIBRARIES", libraries))


def main() -> None:
    """Write the template to the given path."""
    parser = argparse.ArgumentParser(
        prog="python -m wscore.offline_plots", description="Write an offline template for `dvc plots show`."
    )
    parser.add_argument("--out", type=Path, required=True)
    write_template(parser.parse_args().out)


if __name__ == "__main__":
    main()
