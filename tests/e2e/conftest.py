"""One clone for all end-to-end tests; they run in the order of the file, on one test process."""

import pytest

from tests.e2e.workspace import Outcome, Workspace


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("e2e"))


@pytest.fixture(scope="session")
def first_run(workspace: Workspace) -> Outcome:
    """The pipeline run from nothing, and committed."""
    outcome = workspace.dvc("repro")
    assert outcome.status == 0, outcome.text[-4_000:]
    workspace.commit("results")
    return outcome
