#!/usr/bin/env python3
"""One pre-training step of the base model on CPU: this package compared with fairseq and transformers.

    python benchmarks/pretrain_step.py --peer-python /path/to/venv/bin/python [--rounds 3] [--steps 3] [--threads 2]

A step is forward, loss, backward and Adam's update on 4 utterances of 10 s, with masks as in training (mask_prob 0.65)
and 100 negatives. Dropouts are those of the base recipe; layerdrop is 0, so that every step does the same work. The
systems alternate, each in fresh processes of its own interpreter, with one warm-up step. The results are seconds of
audio per second of wall time, and the process's peak memory.

Each peer has its best settings: fairseq its own masks and Adam (its bf16 does not run on CPU); transformers fp32 and
bf16 autocast, with torch's fused AdamW, and with masks and negatives made outside the timing. Ours gets batches as
data-loading workers make them, and runs under `torch.autocast` as in the trainer.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
RATE, ROWS, SECONDS = 16000, 4, 10
AUDIO_SECONDS = ROWS * SECONDS
MASK_PROB, NEGATIVES = 0.65, 100
BASE = {  # the model of wav2vec2_base_librispeech.yaml, without layerdrop
    "quantize_targets": True,
    "final_dim": 256,
    "encoder_layerdrop": 0.0,
    "dropout_input": 0.1,
    "dropout_features": 0.1,
    "feature_grad_mult": 0.1,
    "encoder_embed_dim": 768,
    "mask_prob": MASK_PROB,
    "num_negatives": NEGATIVES,
}
CRITERION = {"infonce": True, "loss_weights": [0.1, 10.0], "log_keys": ["prob_perplexity", "code_perplexity", "temp"]}
ADAM = {"lr": 1e-4, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.01}
SYSTEMS = ["ours-bf16", "ours-fp32", "fairseq-fp32", "transformers-bf16", "transformers-fp32"]
TARGETS = {  # quotient of audio seconds per second, or of peak memory -> (ours, peers, at least or at most, limit)
    "bf16 over fairseq": ("ours-bf16", ["fairseq-fp32"], "at least", 2.7),
    "bf16 over transformers' best": ("ours-bf16", ["transformers-bf16", "transformers-fp32"], "at least", 2.2),
    "fp32 over fairseq": ("ours-fp32", ["fairseq-fp32"], "at least", 1.2),
    "peak memory, bf16 over fairseq": ("ours-bf16", ["fairseq-fp32"], "at most", 0.65),
}

Batch = Any
# a function that makes a batch (not timed), and a step (timed) that returns the loss
Step = tuple[Callable[[], Batch], Callable[[Batch], float]]


def audio() -> Any:
    """Noise with the loudness of normalised speech."""
    import torch

    return torch.randn(ROWS, RATE * SECONDS) * 0.1


# -- the three systems -------------------------------------------------------------------------------------------------


def our_step(precision: str) -> Step:
    import numpy as np
    import torch

    from fairseq import device
    from fairseq.criterions.wav2vec_criterion import Wav2vecCriterion
    from fairseq.frames import frames_for_samples
    from fairseq.masks.positions import positions_and_weights
    from fairseq.masks.settings import PretrainingMasks
    from fairseq.masks.spans import draw_mask, max_masked_frames
    from fairseq.models.wav2vec import Wav2Vec2Config, Wav2Vec2Model
    from fairseq.optim.adam import Adam

    cpu = device.get("cpu")
    cpu.claim()
    cfg = Wav2Vec2Config(**BASE)
    model, criterion = Wav2Vec2Model(cfg).train(), Wav2vecCriterion(**CRITERION)
    optimizer = Adam(model.parameters(), **ADAM)
    masks = PretrainingMasks.from_config(cfg)
    frames = frames_for_samples(RATE * SECONDS, masks.conv_layers)
    rng = np.random.default_rng(1)

    def batch() -> Batch:
        mask = np.stack([draw_mask(frames, masks.time, rng) for _ in range(ROWS)])
        positions, weights = positions_and_weights(mask, max_masked_frames(frames, masks.time))
        given = {"mask_indices": mask, "masked_positions": positions, "masked_weights": weights}
        return {"net_input": {"source": audio(), **{name: torch.from_numpy(value) for name, value in given.items()}}}

    def step(sample: Batch) -> float:
        with cpu.autocast(torch.bfloat16 if precision == "bf16" else None):
            loss, sample_size, _ = criterion(model, sample)
        loss.backward()
        optimizer.step(grad_scale=sample_size)
        optimizer.zero_grad()
        return loss.item() / sample_size.item()

    return batch, step


def fairseq_step(precision: str) -> Step:
    import torch

    from fairseq.criterions.wav2vec_criterion import Wav2vecCriterion
    from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
    from fairseq.optim.adam import Adam

    if precision != "fp32":
        raise SystemExit("fairseq only runs in fp32 on CPU.")

    class Task:
        target_dictionary = None

    model = Wav2Vec2Model(Wav2Vec2Config(**BASE)).train()
    criterion = Wav2vecCriterion(Task(), **CRITERION)
    optimizer = Adam(model.parameters(), **ADAM)

    def batch() -> Batch:
        return {"id": torch.arange(ROWS), "net_input": {"source": audio(), "padding_mask": None}}

    def step(sample: Batch) -> float:
        loss, sample_size, _ = criterion(model, sample)
        (loss / sample_size).backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item() / sample_size

    return batch, step


def transformers_step(precision: str) -> Step:
    try:
        import torchaudio  # noqa: F401 - transformers imports it if it is installed; hide a build for another torch
    except (ImportError, OSError):
        sys.modules["torchaudio"] = None  # type: ignore[assignment]
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    off = ("layerdrop", "activation_dropout", "final_dropout")
    config = Wav2Vec2Config(
        num_negatives=NEGATIVES,
        mask_time_prob=MASK_PROB,
        feat_proj_dropout=0.1,
        feat_quantizer_dropout=0.1,
        **dict.fromkeys(off, 0.0),
    )
    model = Wav2Vec2ForPreTraining(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True, **ADAM)
    frames = int(model._get_feat_extract_output_lengths(RATE * SECONDS))

    def batch() -> Batch:
        mask = _compute_mask_indices((ROWS, frames), mask_prob=MASK_PROB, mask_length=config.mask_time_length)
        negatives = _sample_negative_indices((ROWS, frames), NEGATIVES, mask_time_indices=mask)
        return {
            "input_values": audio(),
            "mask_time_indices": torch.from_numpy(mask).bool(),
            "sampled_negative_indices": torch.from_numpy(negatives).long(),
        }

    def step(inputs: Batch) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(**inputs).loss
        count = inputs["mask_time_indices"].sum()
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item() / count.item()

    return batch, step


# -- measuring ---------------------------------------------------------------------------------------------------------


def measure(system: str, steps: int, threads: int) -> dict[str, Any]:
    """Run one system in this process; returns seconds per step after the first, peak memory and version."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(1)
    name, precision = system.split("-")
    batch, step = {"ours": our_step, "fairseq": fairseq_step, "transformers": transformers_step}[name](precision)
    seconds, processor, losses = [], [], []
    for _ in range(1 + steps):
        made = batch()
        began, worked = time.perf_counter(), time.process_time()
        losses.append(step(made))
        seconds.append(time.perf_counter() - began)
        processor.append(time.process_time() - worked)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = {"step_seconds": seconds[1:], "processor_seconds": processor[1:], "peak_gb": peak, "losses": losses}
    return {**found, "torch": torch.__version__}


def run_child(python: str, system: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run `measure` in a fresh process of this interpreter."""
    threads = str(args.threads)
    path = str(REPOSITORY) if system.startswith("ours") else ""
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONPATH": path}
    command = [
        python,
        str(Path(__file__).resolve()),
        "--child",
        system,
        "--steps",
        str(args.steps),
        "--threads",
        threads,
    ]
    output = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=tempfile.gettempdir()
    ).stdout
    return json.loads(output.splitlines()[-1])


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over all steps of all rounds, with the spread."""
    seconds = sorted(second for run in runs for second in run["step_seconds"])
    return {
        "audio_seconds_a_second": round(AUDIO_SECONDS / statistics.median(seconds), 3),
        "step_seconds": {
            "median": round(statistics.median(seconds), 2),
            "least": round(seconds[0], 2),
            "most": round(seconds[-1], 2),
        },
        "processor_seconds": round(statistics.median(second for run in runs for second in run["processor_seconds"]), 2),
        "peak_gb": round(statistics.median(run["peak_gb"] for run in runs), 2),
        "losses_of_the_first_run": [round(loss, 4) for loss in runs[0]["losses"]],
        "torch": runs[0]["torch"],
    }


def quotients(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Quotients of ours and the best measured peer, with their targets."""
    result = {}
    for name, (ours, peers, bound, wanted) in TARGETS.items():
        peers = [peer for peer in peers if peer in found]
        if ours not in found or not peers:
            continue
        key = "peak_gb" if "memory" in name else "audio_seconds_a_second"
        quotient = found[ours][key] / max(found[peer][key] for peer in peers)
        reached = quotient >= wanted if bound == "at least" else quotient <= wanted
        result[name] = {"quotient": round(quotient, 3), "wanted": f"{bound} {wanted}", "reached": reached}
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer-python", help="interpreter of an environment that has fairseq and transformers")
    parser.add_argument(
        "--systems", default=",".join(SYSTEMS), help=f"systems to measure (default: {','.join(SYSTEMS)})"
    )
    parser.add_argument("--rounds", type=int, default=3, help="alternations (default: 3)")
    parser.add_argument("--steps", type=int, default=3, help="timed steps per process (default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="threads per process (default: 2)")
    parser.add_argument("--name", default="pretrain_step", help="name of the result file (default: pretrain_step)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.child, args.steps, args.threads)))
        return 0

    import results_file

    systems = [system for system in args.systems.split(",") if args.peer_python or system.startswith("ours")]
    runs: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
    for number in range(args.rounds):
        for system in systems:
            run = run_child(sys.executable if system.startswith("ours") else args.peer_python, system, args)
            runs[system].append(run)
            seconds = ", ".join(f"{second:.2f}" for second in run["step_seconds"])
            print(f"round {number + 1}: {system}: {seconds} s per step, {run['peak_gb']:.2f} GB", flush=True)
    found = {system: summary(its_runs) for system, its_runs in runs.items()}
    setting = {
        "rows": ROWS,
        "seconds_of_audio_each": SECONDS,
        "threads": args.threads,
        "rounds": args.rounds,
        "steps": args.steps,
    }
    result = {
        "setting": setting,
        "model": BASE,
        "criterion": CRITERION,
        "adam": ADAM,
        "systems": found,
        "quotients": quotients(found),
    }
    path = results_file.write(args.name, result)
    print(json.dumps({"systems": found, "quotients": result["quotients"]}, indent=1))
    print(f"results: {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
