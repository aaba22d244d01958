"""Networks through NNCodec, each as the difference from the last one that came back; run by `benchmarks.codec` in a venv.

    python _nncodec.py IN.npz OUT.npz QP [QP ...]

IN has tensors `<number>/<name>`; OUT gets those that came back as `<qp>/<number>/<name>`. Prints JSON: for each QP the bytes of
every network and the seconds of encoding and decoding all of them.
"""

import contextlib
import importlib
import io
import json
import sys
import tempfile
import time
from typing import Any

import numpy as np

FINER = 24  # QPs by which biases are kept more finely: 64 times; what it does by itself takes many bytes at 60x
Tensors = dict[str, np.ndarray]


def chain(codec: Any, networks: list[Tensors], qp: int) -> tuple[list[Tensors], dict[str, Any]]:
    """Return networks as they come back, and what they took."""
    options = {"qp": qp, "nonweight_qp": qp - FINER, "verbose": False, "results": tempfile.gettempdir()}
    base = {name: np.zeros_like(value) for name, value in networks[0].items()}
    back, sizes, seconds = [], [], [0.0, 0.0]
    for network in networks:
        difference = {name: value - base[name] for name, value in network.items()}
        start = time.process_time()
        data = codec.encode(difference, options)
        middle = time.process_time()
        decoded = codec.decode(data)
        seconds = [seconds[0] + middle - start, seconds[1] + time.process_time() - middle]
        base = {name: base[name] + np.asarray(decoded[name], np.float32) for name in network}
        back.append(base)
        sizes.append(len(data))
    return back, {"sizes": sizes, "encode": seconds[0], "decode": seconds[1]}


def main(source: str, target: str, *qps: str) -> None:
    """Code the networks of a file at every QP."""
    codec = importlib.import_module("nncodec.nn")
    with np.load(source) as stored:
        count = 1 + max(int(key.split("/")[0]) for key in stored)
        networks = [
            {key.split("/", 1)[1]: stored[key] for key in stored if key.startswith(f"{n}/")} for n in range(count)
        ]
    found, arrays = {}, {}
    for qp in qps:
        with contextlib.redirect_stdout(io.StringIO()):
            back, found[qp] = chain(codec, networks, int(qp))
        arrays |= {f"{qp}/{n}/{name}": value for n, network in enumerate(back) for name, value in network.items()}
    np.savez(target, **arrays)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
