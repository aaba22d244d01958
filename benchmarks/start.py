"""CPU seconds of whole commands beside those of `import torch` alone.

python -m benchmarks.start models/published checkpoint.pt ...
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile

COMMANDS = ("encode", "predict", "inspect", "compress")
REPEATS = 3


def seconds(*arguments: str) -> float:
    """Return the least CPU time, user and system, of a Python process on one thread."""
    times = []
    for _ in range(REPEATS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def main() -> None:
    """Print one line per command and network: CPU seconds, and how often `import torch` would fit in."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="folder of published models")
    parser.add_argument("networks", nargs="+")
    options = parser.parse_args()
    torch = seconds("-c", "import torch")
    print(f"import torch: {torch:.2f} s")
    print(f"wscore --help: {seconds('-m', 'wscore.cli.main', '--help'):.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        for network in options.networks:
            for command in COMMANDS:
                out = ["--out", f"{folder}/out.wsz"] if command == "compress" else []
                arguments = ("-m", "wscore.cli.main", command, network, "--model", options.model, *out)
                taken = seconds(*arguments)
                print(f"{command} {network}: {taken:.2f} s, {taken / torch:.2f} x import torch")


if __name__ == "__main__":
    main()
