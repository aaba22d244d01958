"""A clone of the repository in a temporary folder, with the smoke preset and an environment of its own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from wscore.presets import apply_preset

ROOT = Path(__file__).resolve().parents[2]
RUNNING = re.compile(r"Running stage '([^']+)'")


class Outcome(NamedTuple):
    """What a command said: exit status, everything it printed, and the stages that DVC ran in it."""

    status: int
    text: str
    stages: list[str]


class Workspace:
    """A throw-away clone.

    Attributes:
        folder: where it lies.
        env: environment of every command; nothing outside the temporary folder is read or written.
        path: of the commands that are waited for; an executable `python` in `bin` beside the clone goes first.
    """

    def __init__(self, base: Path) -> None:
        self.folder = base / "clone"
        self.env = environment(base)
        self.path = os.pathsep.join((str(base / "bin"), self.env["PATH"]))
        copy_tree(self.folder)
        apply_preset(self.folder / "presets/smoke.yaml", self.folder / "params.yaml")
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit("clone")

    def run(self, *command: str, env: dict[str, str] | None = None) -> Outcome:
        """Run a command in the clone; `env` is added to the environment."""
        result = subprocess.run(
            command,
            cwd=self.folder,
            env={**self.env, "PATH": self.path, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Outcome(result.returncode, result.stdout, RUNNING.findall(result.stdout))

    def dvc(self, *arguments: str, env: dict[str, str] | None = None) -> Outcome:
        """Run dvc in the clone."""
        return self.run(sys.executable, "-m", "dvc", *arguments, env=env)

    def start_dvc(self, *arguments: str, env: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start dvc in a process group of its own, with all stages in it, without waiting for it."""
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        command = (sys.executable, "-m", "dvc", *arguments)
        return subprocess.Popen(command, cwd=self.folder, env=self.env | env, start_new_session=True, **quiet)

    def git(self, *arguments: str) -> str:
        """Run git in the clone and return what it printed; it must succeed."""
        outcome = self.run("git", *arguments)
        assert outcome.status == 0, outcome.text
        return outcome.text

    def commit(self, message: str) -> None:
        """Commit everything that git does not ignore."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)

    def reset(self) -> None:
        """Go back to the last commit, outputs included."""
        self.git("checkout", "--quiet", "--", ".")
        outcome = self.dvc(
            "checkout", "--force", "--allow-missing"
        )  # outputs of studies, which were not run, are missing
        assert outcome.status == 0, outcome.text

    def read(self, name: str) -> str:
        """Return the text of a file of the clone."""
        return (self.folder / name).read_text(encoding="utf-8")


def copy_tree(target: Path) -> None:
    """Copy the files of the working tree that git knows or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def environment(base: Path) -> dict[str, str]:
    """Return an environment whose home, caches and git identity lie below `base`; `python` is the running one."""
    dropped = ("DVC_", "GIT_", "MLFLOW_", "HF_", "WSCORE_", "PYTHONDONTWRITEBYTECODE", "COVERAGE", "PYTEST_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    home = base / "home"
    home.mkdir(parents=True)
    (home / ".gitconfig").write_text("[user]\n\tname = Tester\n\temail = tester@example.org\n", encoding="utf-8")
    return {
        **kept,
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), kept.get("PATH", ""))),
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "DVC_SITE_CACHE_DIR": str(home / "dvc-site"),
        "DVC_NO_ANALYTICS": "1",
        "HF_HUB_OFFLINE": "1",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(home / ".gitconfig"),
        "OMP_NUM_THREADS": "1",
        "WSCORE_TRACKING": "off",
        "WSCORE_WORKERS": "1",  # the other cores run other tests
    }
