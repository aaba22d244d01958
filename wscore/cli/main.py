"""Command line `wscore`: applies published models to networks in files. Heavy imports are deferred, so `--help` is fast."""

import argparse
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from wscore import __version__
from wscore.errors import WscoreError, printable
from wscore.interrupt import INTERRUPTED, leave_on_interrupt

MODEL = "models/published"
AMONG = "data/published/representations"
NETWORKS = """\
A network is a file of a state dict (.safetensors; .pt, .pth with tensors only; .npz), a folder of such files, a zoo
(data/zoo), one network of it (data/zoo#MODEL_ID), a recorded run (data/trajectories/RUN), or owner/name[@revision] on
the Hugging Face Hub. A model is a folder of published models or owner/name[@revision]. HF_TOKEN, HF_ENDPOINT and
HF_HUB_OFFLINE are respected. Exit status: 0 done, 1 bad input, 2 wrong usage, 130 interrupted.
"""
MODULES = {
    "compress": "wscore.cli.compression",
    "decompress": "wscore.cli.compression",
    "survey": "wscore.cli.survey",
    "evaluate": "wscore.cli.evaluation",
    "inspect": "wscore.cli.describe",
}  # of all others: commands
EXAMPLES = {
    "compress": """\
  wscore compress checkpoint.safetensors --ratio 20 --out checkpoint.wsz
  wscore compress data/zoo#ID --ratio 20 --images digits --out small.wsz
  wscore compress epoch2.pt --reference epoch1.pt --ratio 50 --out epoch2.wsz""",
    "decompress": """\
  wscore decompress checkpoint.wsz --out checkpoint.safetensors
  wscore decompress epoch2.wsz --reference epoch1.pt --out epoch2.safetensors""",
    "encode": """\
  wscore encode checkpoint.safetensors
  wscore encode data/zoo --limit 100 --autoencoder --out latents.safetensors
  wscore encode checkpoint.pt --model me/my-zoo@4f1c2ab --json""",
    "decode": """\
  wscore decode latents.safetensors --out rebuilt
  wscore decode latents.safetensors --like checkpoint.safetensors --out rebuilt""",
    "predict": """\
  wscore predict checkpoint.safetensors
  wscore predict checkpoint.safetensors --heads accuracy --json""",
    "neighbours": """\
  wscore neighbours checkpoint.safetensors
  wscore neighbours checkpoint.safetensors -k 10 --among me/my-zoo-representations""",
    "interpolate": """\
  wscore interpolate one.safetensors other.safetensors --steps 5 --out between
  wscore interpolate data/zoo#ID data/zoo#ID --images digits""",
    "forecast": """\
  wscore forecast epoch1.pt epoch2.pt epoch3.pt --steps 5 --out future
  wscore forecast data/trajectories/sgd-seed-3 --at 30 --steps 3""",
    "survey": """\
  wscore survey checkpoints --out survey
  wscore survey checkpoints --labels metadata.csv --out survey""",
    "evaluate": """\
  wscore evaluate --splits splits.csv
  wscore evaluate --predictions mine.csv
  wscore evaluate --rebuilt folder --json""",
    "inspect": """\
  wscore inspect checkpoint.safetensors
  wscore inspect data/zoo
  wscore inspect models/published/encoder""",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exits with 1 and one line on standard error if the input is bad."""
    options = build_parser().parse_args(arguments)
    warnings.showwarning = _show_warning
    name = options.command
    usual = leave_on_interrupt(f"wscore {name}")
    module = importlib.import_module(MODULES.get(name, "wscore.cli.commands"))
    signal.signal(signal.SIGINT, usual)
    run: Callable[[argparse.Namespace], None] = getattr(module, name)
    try:
        run(options)
        sys.stdout.flush()
    except WscoreError as error:
        sys.exit(_complaint(name, " ".join(str(error).split())))
    except BrokenPipeError:  # as by `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        where = f"{printable(error.filename)}: " if error.filename else ""
        sys.exit(_complaint(name, f"{where}{error.strerror or error}"))
    except KeyboardInterrupt:
        sys.stderr.write(_complaint(name, "interrupted\n"))
        sys.exit(INTERRUPTED)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="wscore", description="Neural-network weights as data: apply published models to networks in files.",
        epilog=NETWORKS, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"wscore {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    encode = _add(commands, "encode", "Print the latent of each network.")
    _networks(encode)
    encode.add_argument("--out", metavar="FILE", help="also write the latents to this .safetensors file")
    encode.add_argument(
        "--autoencoder", action="store_true", help="latents of the autoencoder, for `decode`; of its layouts alone"
    )
    decode = _add(commands, "decode", "Rebuild networks from latents written by `encode --autoencoder --out`.")
    decode.add_argument("latents", metavar="FILE", help=".safetensors file of latents")
    decode.add_argument(
        "--like", metavar="NETWORK", help="network with the target layout; default: the layout stored with the latents"
    )
    decode.add_argument("--out", metavar="FOLDER", required=True, help="new folder for the rebuilt networks")
    predict = _add(
        commands, "predict", "Predict properties of each network, numbers with a prediction interval if available."
    )
    _networks(predict)
    predict.add_argument("--heads", nargs="+", metavar="NAME", help="heads to use, such as accuracy (default: all)")
    neighbours = _add(commands, "neighbours", "Find the nearest networks of a zoo in latent space.")
    neighbours.add_argument("network", metavar="NETWORK")
    neighbours.add_argument("-k", type=_count, default=5, metavar="NUMBER", help="how many (default: 5)")
    neighbours.add_argument(
        "--among",
        default=AMONG,
        metavar="FOLDER",
        help=f"published representations, folder or Hub id (default: {AMONG})",
    )
    _add_ways(commands)
    _add_compression(commands)
    _add_survey(commands)
    _add_evaluate(commands)
    inspect = _add(
        commands, "inspect", "Show layers, statistics and symmetry of a network, or the content of a zoo or model."
    )
    inspect.add_argument("path", metavar="PATH", help="network, zoo, recorded run or published model")
    return parser


def _add_survey(commands: Any) -> None:
    survey = _add(
        commands,
        "survey",
        "Find out which networks of a folder are related, damaged, or likely the best; writes a page.",
    )
    survey.add_argument("folder", metavar="FOLDER", help="folder of networks, or a zoo")
    survey.add_argument(
        "--labels", metavar="CSV", help="what is known about the networks; column `network`: their file"
    )
    survey.add_argument("--limit", type=_count, metavar="NUMBER", help="maximum number of networks")
    survey.add_argument(
        "--out", metavar="FOLDER", default="survey", help="new folder for the results (default: survey)"
    )


def _add_ways(commands: Any) -> None:
    """Add the commands that make new networks."""
    interpolate = _add(
        commands,
        "interpolate",
        "Interpolate two networks in latent space; those of other widths in the layout of the first.",
    )
    interpolate.add_argument("first", metavar="NETWORK")
    interpolate.add_argument("second", metavar="NETWORK")
    interpolate.add_argument(
        "--steps", type=_steps, default=5, metavar="NUMBER", help="networks, including both ends (default: 5)"
    )
    interpolate.add_argument("--images", metavar="NAME", help="data set on whose test images each network is evaluated")
    interpolate.add_argument("--out", metavar="FOLDER", help="new folder for the interpolated networks")
    forecast = _add(commands, "forecast", "Forecast the weights of a network from its last snapshots.")
    forecast.add_argument(
        "snapshots", nargs="+", metavar="NETWORK", help="oldest first, equally spaced; or one recorded run"
    )
    forecast.add_argument("--steps", type=_count, default=1, metavar="NUMBER", help="steps ahead (default: 1)")
    forecast.add_argument("--at", type=int, metavar="INDEX", help="snapshot of a recorded run to forecast from")
    forecast.add_argument("--out", metavar="FOLDER", help="new folder for the forecast networks")


def _add_evaluate(commands: Any) -> None:
    evaluate = _add(commands, "evaluate", "Measure another method on the held-out networks, beside all controls.")
    evaluate.add_argument(
        "--predictions", metavar="FILE", help="CSV of model_id and value: accuracies of the test networks"
    )
    evaluate.add_argument("--rebuilt", metavar="FOLDER", help="rebuilt held-out networks, MODEL_ID.safetensors")
    evaluate.add_argument("--splits", metavar="FILE", help="write which networks are needed to this CSV")
    for name, default in (("zoo", "data/zoo"), ("tokens", "data/tokens"), ("metrics", "metrics")):
        evaluate.add_argument(
            f"--{name}", default=default, metavar="FOLDER", help=f"of the pipeline (default: {default})"
        )


def _add_compression(commands: Any) -> None:
    compress = _add(commands, "compress", "Write a network as a small file, for `decompress`.")
    compress.add_argument("network", metavar="NETWORK")
    compress.add_argument("--ratio", type=float, default=10.0, metavar="NUMBER", help="times smaller (default: 10)")
    compress.add_argument(
        "--images", metavar="NAME", help="data set of the network: its outputs are kept, and measured"
    )
    decompress = _add(commands, "decompress", "Rebuild the network in a file of `compress`.")
    decompress.add_argument("file", metavar="FILE")
    for command, out in ((compress, "file to write, .wsz"), (decompress, ".safetensors file to write")):
        command.add_argument("--out", metavar="FILE", required=True, help=out)
        command.add_argument("--reference", metavar="NETWORK", help="network from which differences are coded")


def _add(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name, help=text, description=text, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"examples:\n{EXAMPLES[name]}\n\n{NETWORKS}",
    )  # fmt: skip
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument(
        "--model", default=MODEL, metavar="MODEL", help=f"published models, folder or Hub id (default: {MODEL})"
    )
    command.add_argument(
        "--architecture",
        default="",
        metavar="JSON",
        help="architecture of networks whose file has none: JSON, or package.module:function that returns the module",
    )
    return command


def _networks(command: argparse.ArgumentParser) -> None:
    command.add_argument("networks", nargs="+", metavar="NETWORK")
    command.add_argument("--limit", type=_count, metavar="NUMBER", help="maximum number of networks")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 1, got {text}")
    return number


def _steps(text: str) -> int:
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 2, got {text}")
    return number


def _complaint(name: str, text: str) -> str:
    return f"wscore {name}: {text}"


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    sys.stderr.write(f"wscore: warning: {printable(message)}\n" if issubclass(category, UserWarning) else "")


if __name__ == "__main__":
    main()
