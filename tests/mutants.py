"""Mutation check: does a test fail when one line of the arithmetic is wrong? `make mutants` lists the lines where none does.

python -m tests.mutants              all mutants
python -m tests.mutants conformal    those whose file or text contains a word
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 600  # a mutant that makes tests run longer counts as noticed


class Mutant(NamedTuple):
    """A wrong line.

    Attributes:
        file: below wscore/.
        right: text that occurs once in it.
        wrong: what stands there instead.
        tests: below tests/, that should fail.
    """

    file: str
    right: str
    wrong: str
    tests: str


#: Wrong lines by right ones, by file below wscore/ and tests below tests/ that should fail.
TABLE: dict[tuple[str, str], dict[str, str]] = {
    ("tokens/tokenizer.py", "unit/tokens/test_tokenizer.py"): {
        "scatter[gather[mask]] = np.flatnonzero(mask)": "scatter[gather[mask]] = np.flatnonzero(mask)[::-1]",
        "elif spec.kind in NORM_KINDS and last[1] == key[1]:": "elif spec.kind in NORM_KINDS:",
        "pieces = -(-width // dim)": "pieces = width // dim + 1",
        "return rank / counts[label]": "return (rank + 1) / counts[label]",
    },
    ("tokens/strided_copy.py", "unit/tokens/test_tokenizer.py"): {
        "moves = [move for move in moves if move.source >= 0]": "moves = [move for move in moves if move.source > 0]",
    },
    ("tokens/normalizer.py", "unit/tokens/test_normalizer.py"): {
        "return vectors * scale + shift": "return (vectors + shift) * scale",
        "delta**2 * first.n * share": "delta**2 * first.n",
        "np.sqrt(moments.deviation[0] / max(moments.n[0], 1))": "np.sqrt(moments.deviation[0] / max(moments.n[0] - 1, 1))",
        "scale=_usable(max(deviation, floor))": "scale=_usable(deviation)",
    },
    ("autoencoder/training/contrastive_loss.py", "unit/autoencoder/training/test_contrastive_loss.py"): {
        "masked_fill(itself, -torch.inf)": "masked_fill(itself, 0.0)",
        ".roll(count)": ".roll(1)",
        "views @ views.T / temperature": "views @ views.T",
    },
    ("symmetry/matching.py", "unit/symmetry/test_matching.py"): {
        "maximize=True": "maximize=False",
        "orders[group] = orders[group].gather(1, step)": "orders[group] = step",
        "total += theirs @ ours.transpose(1, 2)": "total = theirs @ ours.transpose(1, 2)",
    },
    ("zoo/splits.py", "properties/test_splits.py"): {
        "splits[rank] = ranked": "splits[:] = ranked",
        "-remainders)": "remainders)",
        "return np.array([_width(text) in wanted": "return np.array([_width(text) not in wanted",
    },
    ("autoencoder/coding/gains.py", "unit/autoencoder/coding/test_gains.py"): {
        "weights = weights.mT * (len(x) / (len(x) + FEW))": "weights = weights * (len(x) / (len(x) + FEW))",
        "constant = y_mean - y_mean.mean() - weights @ x_mean": "constant = y_mean - y_mean.mean()",
    },
    ("autoencoder/coding/quantise.py", "unit/autoencoder/coding/test_quantise.py"): {
        "near = (exact + 0.5).int()": "near = exact.int()",
        "down = (exact < _at(lookup.thresholds, place)).int()": "down = torch.zeros_like(near)",
    },
    ("autoencoder/coding/range_coder.py", "unit/autoencoder/coding/test_range_coder.py"): {
        "multiple < min(start + span, 1 << 8 * size)": "multiple < min(start + 2 * span, 1 << 8 * size)",
        "multiple = -(-start // unit) * unit": "multiple = start // unit * unit",
    },
    ("autoencoder/coding/table_coder.py", "unit/autoencoder/coding/test_codec.py"): {
        "numbers = (numbers << below) - _half(below)": "numbers = numbers << below",
    },
    ("forecasting/evaluation/tables.py", "unit/forecasting/evaluation/test_tables.py"): {
        "float(errors.sum()) / max(float(copied.sum()), TINY)": "float((errors / np.maximum(copied, TINY)).mean())",
        "skill = 1 - float(error) / max(float(copied), TINY)": "skill = 1 - (float(error) / max(float(copied), TINY)) ** 0.5",
        "skill_worst=float(windows.min())": "skill_worst=float(windows.mean())",
    },
    ("hub/checksums.py", "unit/hub/test_checksums.py"): {
        "if file_sha256(path) != expected:": "if file_sha256(path)[:1] != expected[:1]:",
        '("", ".", "..") or': '("", ".") or',
        "if not files:": "if files is None:",
    },
    ("autoencoder/evaluation/fidelity.py", "unit/autoencoder/evaluation/test_fidelity.py"): {
        "agreement=_mean((first == second) & first_ok & second_ok)": "agreement=_mean(first == second)",
        "first_log.exp() * (first_log - second_log)": "second_log.exp() * (second_log - first_log)",
    },
    ("heads/conformal.py", "unit/heads/test_conformal.py"): {
        "/ (len(counts) + 1)": "/ len(counts)",
        "1 / counts[members][order]": "1 / counts[members]",
        "len(errors) - 1)])": "len(errors) - 2)])",
    },
    ("zoo/readers/hygiene.py", "unit/zoo/readers/test_hygiene.py"): {
        "if apart < max(distance, coarser):": "if apart < 2 * max(distance, coarser):",
        "spec.size < SMALLEST_LAYER or": "",
        "for other in related[todo.popleft()] - group.keys():": "for other in related[run] - group.keys():",
        "return hashlib.sha256(layout.identity.encode() + vector.tobytes())": "return hashlib.sha256(layout.identity.encode())",
        "(np.abs(factor) <= 2.001)": "(np.abs(factor) <= 1.0)",
    },
    ("networks/checkpoints.py", "unit/networks/test_checkpoints.py"): {
        "if claimed > max(RATIO * size, HARMLESS_SIZE):": "if claimed > RATIO * size + HARMLESS_SIZE**2:",
        "count * dtype.itemsize > size": "count * dtype.itemsize > size**2",
    },
    ("networks/safetensors_file.py", "unit/networks/test_checkpoints.py"): {
        "if begin != place or end < begin:": "if begin < place or end < begin:",
        "if place != size:": "if place > size:",
        "if count * kind.itemsize != end - begin:": "if count * kind.itemsize > end - begin:",
    },
    ("networks/shards.py", "unit/zoo/readers/test_folder_kinds.py"): {
        "if Path(name).name != name or name.endswith(INDEX):": "if name.endswith(INDEX):",
    },
    ("networks/selection.py", "unit/networks/test_selection.py"): {
        "if _words(name) & AVERAGES and twins:": "if _words(name) & AVERAGES:",
        "return separate and min(twins.values()) > 1": "return separate",
        "return all(tensor.numel() < 2 or _moment(place)": "return any(tensor.numel() < 2 or _moment(place)",
        "left_out = dict.fromkeys(callbacks, AVERAGE)": "left_out: dict[str, str] = {}",
    },
    ("networks/reparametrised.py", "unit/networks/test_selection.py"): {
        "original * mask.to(original.dtype)": "original",
        "direction.float() * (size.float() / norm)": "direction.float() * size.float()",
        "weight.float() / largest": "weight.float()",
    },
    ("networks/naming.py", "unit/networks/test_selection.py"): {
        "tensor.permute(-1, -2, *axes)": "tensor.permute(-2, -1, *axes)",
        "(0, int(piece)) if piece.isdecimal() else (1, piece)": "(1, piece)",
    },
    ("networks/pickles.py", "unit/networks/test_pickles.py"): {
        "if count and last >= available:": "if count and last > available:",
        "bytes | str) or not _is_numeric(kind):": "bytes | str):",
        "if self.left < 0:": "if self.left < -(1 << 62):",
    },
    ("zoo/stated_accuracy.py", "unit/zoo/test_stated_accuracy.py"): {
        "np.abs(stated - measured) > comparison.margins": "stated - measured > comparison.margins",
    },
    ("evaluation/bootstrap.py", "unit/evaluation/test_bootstrap.py"): {
        "np.quantile(defined, [TAIL, 1 - TAIL])": "np.quantile(defined, [TAIL, 1 - 2 * TAIL])",
    },
    ("report/table.py", "unit/report/test_table.py"): {
        "if runs < FEW_RUNS": "if runs <= FEW_RUNS",
    },
    ("training/model_folder.py", "unit/training/test_model_folder.py"): {
        "if self.left < 0:": "if self.left == -(10**9):",
        "bool(tensor.isnan().any())": "bool(tensor.isnan().all())",
    },
}
OUTPUTS = (".git", ".venv", ".dvc", ".smoke", ".cache", "data", "models")  # left out of the copy
MUTANTS = tuple(
    Mutant(file, right, wrong, tests) for (file, tests), lines in TABLE.items() for right, wrong in lines.items()
)


def main() -> None:
    """Try all mutants, or those that a word selects, and exit with 1 if no test notices one."""
    chosen = [mutant for mutant in MUTANTS if all(word in f"{mutant.file} {mutant.right}" for word in sys.argv[1:])]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "clone"
        shutil.copytree(ROOT, copy, ignore=lambda place, _: OUTPUTS if Path(place) == ROOT else ())
        survivors = [mutant for mutant in chosen if not is_noticed(mutant, copy)]
    for mutant in survivors:
        sys.stdout.write(f"not noticed: wscore/{mutant.file}: {mutant.right}  ->  {mutant.wrong}\n")
    sys.stdout.write(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants are noticed\n")
    sys.exit(1 if survivors else 0)


def is_noticed(mutant: Mutant, clone: Path) -> bool:
    """Return whether a test fails in a copy of the repository with one wrong line."""
    path = clone / "wscore" / mutant.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(mutant.right, mutant.wrong), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-q", f"tests/{mutant.tests}"]
    environment = {**os.environ, "PYTHONPATH": str(clone)}
    try:
        outcome = subprocess.run(command, cwd=clone, env=environment, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return True
    finally:
        path.write_text(text, encoding="utf-8")
    sys.stdout.write("." if outcome.returncode == 1 else f"\n{mutant.file}: pytest ended with {outcome.returncode}\n")
    sys.stdout.flush()
    return outcome.returncode == 1


if __name__ == "__main__":
    main()
