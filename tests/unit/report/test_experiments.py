"""The table of experiments is narrow and names what differs from the commit that they started from."""

import io

import pytest

from wscore.errors import DataError
from wscore.report.experiments import experiments_table, main

TABLE = """\
Experiment,rev,typ,Created,evaluate.missing_parts,evaluate.codec.agreement,evaluate.heads.accuracy_r2,\
evaluate.probe_images,ae.latent_dim,sae.k,wscore/io.py
,workspace,baseline,,0.0,0.9489,0.9644,100,128,32,aa
,main,baseline,2026-01-02T03:04:05,0.0,0.9489,0.9644,100,256,32,aa
narrow,53e4e49,branch_commit,2026-01-02T03:04:05,0.0,0.93,!,100,64,16,bb
,3709b9e,branch_base,2026-01-02T03:04:05,0.0,,0.96,50,256,32,aa
,v1,baseline,2026-01-01T03:04:05,0.0,0.5,0.6,100,512,32,aa
old,1109b9e,branch_base,2026-01-01T03:04:05,0.0,0.5,0.6,100,256,32,cc
"""


def test_experiments_are_compared_with_their_own_commit() -> None:
    assert experiments_table(io.StringIO(TABLE)).splitlines() == [
        "experiment  codec  accuracy  dictionary  forecast  changed parameters",
        "workspace   0.949     0.964           -         -  ae.latent_dim=128",
        "main        0.949     0.964           -         -",
        "  narrow    0.930         !           -         -  ae.latent_dim=64",
        "                                                   sae.k=16",
        "  3709b9e       -     0.960           -         -  evaluate.probe_images=50",
        "v1          0.500     0.600           -         -",
        "  old       0.500     0.600           -         -  ae.latent_dim=256",
    ]


def test_the_command_prints_the_table_or_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(TABLE))
    main()
    assert capsys.readouterr().out.startswith("experiment  codec")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(SystemExit, match=r"^experiments: .*dvc exp show"):
        main()


def test_a_text_that_is_no_table_is_named() -> None:
    with pytest.raises(DataError, match="got b,c"):
        experiments_table(["b,c", "1,2"])
