"""Known weaknesses of the pinned dependencies, by pip-audit: `make check` runs it where it is installed and has a network."""

import importlib.util
import subprocess
import sys

COMMAND = (
    "-m",
    "pip_audit",
    "--requirement",
    "constraints.txt",
    "--no-deps",
    "--disable-pip",
    "--progress-spinner",
    "off",
)
FOUND = "known vulnerabilit"  # what pip-audit prints of weaknesses, and not of a missing network


def main() -> None:
    """Print what pip-audit finds and exit with 1 if it finds a weakness; skip it by name where it can't run."""
    if importlib.util.find_spec("pip_audit") is None:
        sys.stdout.write("pip-audit skipped: pip install 'wscore[audit]'\n")
        return
    outcome = subprocess.run([sys.executable, *COMMAND], capture_output=True, text=True, check=False)
    said = outcome.stdout + outcome.stderr
    if outcome.returncode and FOUND not in said.lower():
        sys.stdout.write(f"pip-audit skipped: {(said.strip().splitlines() or ['no answer'])[-1]}\n")
        return
    sys.stdout.write(said)
    sys.exit(outcome.returncode)


if __name__ == "__main__":
    main()
