"""The autoencoder goes to the stages that read it, and a note to the others."""

from pathlib import Path

import pytest

from stages import lend_autoencoder
from wscore.io import hash_folder


@pytest.mark.parametrize("mode", ["frozen", "finetune"])
@pytest.mark.parametrize("rows", ["tokens", "neurons", "weights", "representations"])
def test_only_readers_see_another_autoencoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, rows: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(f"heads: {{mode: {mode}}}\nsae: {{input: {rows}}}\n")
    Path("autoencoder/encoder").mkdir(parents=True)
    hashes = []
    for content in ("first", "second"):
        Path("autoencoder/encoder/config.json").write_text(content)
        lend_autoencoder.main(["--autoencoder", "autoencoder", "--heads", "of/heads", "--sae", "of/sae"])
        hashes.append([hash_folder(Path(folder)) for folder in ("of/heads", "of/sae")])
    assert (hashes[0][0] != hashes[1][0]) == (mode == "finetune")
    assert (hashes[0][1] != hashes[1][1]) == (rows == "representations")
    readers = [name for name, reads in (("heads", mode == "finetune"), ("sae", rows == "representations")) if reads]
    assert [path.parts[1] for path in sorted(Path("of").rglob("config.json"))] == readers
