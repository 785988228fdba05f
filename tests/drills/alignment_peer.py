"""Align cases with torchaudio's `forced_align`, in an environment that has it.

    PYTHON tests/drills/alignment_peer.py CASES.npz PATHS.npz

CASES.npz has `emissions_N`, T x columns, and `labels_N`, L, for N from 0; PATHS.npz gets `path_N`, the column in each
frame, and `scores_N`, its log-probability. `tests.drills.alignment --peer-python PYTHON` compares them. This file
imports nothing of fairseq.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
import torchaudio


def main(cases: str, paths: str) -> None:
    found: dict[str, np.ndarray] = {}
    with np.load(cases) as given:
        for number in range(len(given.files) // 2):
            emissions = torch.from_numpy(np.ascontiguousarray(given[f"emissions_{number}"]))[None]
            labels = torch.from_numpy(given[f"labels_{number}"].astype(np.int32))[None]
            path, scores = torchaudio.functional.forced_align(emissions, labels, blank=0)
            found[f"path_{number}"], found[f"scores_{number}"] = path[0].numpy(), scores[0].numpy()
    np.savez(paths, **found)
    print(json.dumps({"torchaudio": torchaudio.__version__, "torch": torch.__version__}))


if __name__ == "__main__":
    main(*sys.argv[1:])
