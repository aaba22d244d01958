"""Copy the autoencoder for the stages that read it under these parameters, so that its changes rerun no others."""

import shutil
from pathlib import Path
from typing import Literal

from wscore.io import atomic_folder, write_text
from wscore.runner import Run, stage

Mode = Literal["frozen", "finetune"]
Rows = Literal["representations", "tokens", "neurons", "weights"]


@stage(**{"heads.mode": Mode, "sae.input": Rows})
def main(run: Run, *, autoencoder: Path, heads: Path, sae: Path) -> str:
    """Copy it for heads that fine-tune its encoder and for a dictionary of its latents, else a note that it is not read."""
    readers = {
        heads: ("heads.mode", run.params["heads.mode"], "finetune"),
        sae: ("sae.input", run.params["sae.input"], "representations"),
    }
    for folder, (name, value, reading) in readers.items():
        with atomic_folder(folder) as copy:
            if value == reading:
                shutil.copytree(autoencoder, copy, dirs_exist_ok=True)
            else:
                write_text(copy / "README.md", f"Empty: the autoencoder is read with {name}={reading} only.\n")
    return "; ".join(f"{name}={value}" for name, value, _ in readers.values())


if __name__ == "__main__":
    main()
