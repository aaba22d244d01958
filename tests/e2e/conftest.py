"""One clone for all end-to-end tests; they run in the order of the file, on one test process."""

from collections.abc import Iterator

import pytest

from tests.e2e.preloaded import installed
from tests.e2e.workspace import Outcome, Workspace


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A clone whose stages start from a Python that has loaded the libraries, except those of `start_dvc`."""
    base = tmp_path_factory.mktemp("e2e")
    workspace = Workspace(base)
    with installed(base / "bin", workspace.env):
        yield workspace


@pytest.fixture(scope="session")
def first_run(workspace: Workspace) -> Outcome:
    """The pipeline run from nothing, and committed."""
    outcome = workspace.dvc("repro")
    assert outcome.status == 0, outcome.text[-4_000:]
    workspace.commit("results")
    return outcome
