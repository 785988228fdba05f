#!/usr/bin/env python3
"""Greedy decoding with a base model on CPU: this package compared with transformers, with the same weights.

    python benchmarks/greedy_decoding.py --peer-python /path/to/venv/bin/python [--rounds 9] [--threads 2]

The timing covers waveforms of 10 s in memory to text: normalisation, model, argmax, joining, in batches of 1 and 8.
Each system has one process of its own interpreter for the whole run, with one warm-up pass per batch size. The
processes take turns, one pass at a time, so that varying load on the machine affects all of them; quotients are of
passes in the same round.

Weights are random and the same for all (written to a file by this package, renamed for transformers), so that the texts
can be compared: in fp32 they are equal.

transformers has its best settings: default attention, torch.inference_mode, its own feature extractor and tokenizer, in
fp32, bf16 weights, bf16 autocast over fp32 weights, and int8 linear layers by torch's dynamic quantization with the
rest in fp32, which it requires.
"""

from __future__ import annotations

import argparse
import json
import os
import re
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
RATE = 16000
BATCHES = (1, 8)
SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
SYSTEMS = [  # systems to compare are adjacent
    *("ours-int8", "transformers-bf16", "ours-bf16", "transformers-autocast", "transformers-int8-dynamic"),
    *("ours-fp32", "transformers-fp32"),
]
OURS, PEERS = ([system for system in SYSTEMS if system.startswith(name)] for name in ("ours", "transformers"))
TARGET = 1.3
TARGETS = {  # name -> (ours, peers): the best of each is compared
    "best precision": (OURS, PEERS),
    "without int8": tuple([system for system in group if "int8" not in system] for group in (OURS, PEERS)),
    "fp32": (["ours-fp32"], ["transformers-fp32"]),
}

Recognise = Callable[[list[Any]], list[str]]  # waveforms to texts


def clips(count: int, seconds: float) -> list[Any]:
    """Noise with the loudness of speech."""
    import numpy as np

    rng = np.random.default_rng(1)
    return [rng.standard_normal(int(RATE * seconds), dtype=np.float32) * np.float32(0.1) for _ in range(count)]


# -- the two systems ---------------------------------------------------------------------------------------------------


def our_model(layers: int) -> Any:
    """Wav2VecCtc of base size with random weights; those of the output layer are large, for varied text."""
    from types import SimpleNamespace

    import torch

    from fairseq.data.dictionary import Dictionary
    from fairseq.models.wav2vec import Wav2VecCtc

    torch.manual_seed(1)
    dictionary = Dictionary()
    for symbol in SYMBOLS[4:]:
        dictionary.add_symbol(symbol)
    task = SimpleNamespace(target_dictionary=dictionary, cfg=SimpleNamespace(sample_rate=RATE, normalize=True))
    encoder = {"_name": "wav2vec2", "encoder_layers": layers}
    w2v_args = {"model": encoder, "task": {"_name": "audio_pretraining", "normalize": True}}
    model = Wav2VecCtc.build_model({"_name": "wav2vec_ctc", "w2v_path": "", "w2v_args": w2v_args}, task).eval()
    torch.nn.init.normal_(model.w2v_encoder.proj.weight, std=0.2)
    model.w2v_encoder.proj.bias.data[1:4] = -100
    return model, task


def ours(precision: str, weights: str, layers: int) -> Recognise:
    import torch

    from fairseq.decoding import GreedyDecoder
    from fairseq.inference.model import SpeechModel

    model, task = our_model(layers)
    model.load_state_dict(torch.load(weights, weights_only=True))
    speech = SpeechModel(model, task, None, precision=precision)
    decoder = GreedyDecoder(speech.dictionary())
    return lambda waves: [decoder.decode(log_probs)[0].text for log_probs in speech.log_probs(waves)]


RENAMED = [  # ours -> transformers'
    (r"^w2v_encoder\.proj\.", "lm_head."),
    (r"^w2v_encoder\.w2v_model\.", "wav2vec2."),
    (r"\.mask_emb$", ".masked_spec_embed"),
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"feature_extractor\.conv_layers\.(\d+)\.2\.", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"^wav2vec2\.post_extract_proj\.", "wav2vec2.feature_projection.projection."),
    (r"^wav2vec2\.layer_norm\.", "wav2vec2.feature_projection.layer_norm."),
    (r"encoder\.pos_conv\.0\.weight_g", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"encoder\.pos_conv\.0\.weight_v", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"\.self_attn\.", ".attention."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
]


def renamed(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def transformers(precision: str, weights: str, layers: int) -> Recognise:
    try:
        import torchaudio  # noqa: F401 - transformers imports it if it is installed; hide a build for another torch
    except (ImportError, OSError):
        sys.modules["torchaudio"] = None  # type: ignore[assignment]
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    config = Wav2Vec2Config(vocab_size=len(SYMBOLS), num_hidden_layers=layers, pad_token_id=0)
    model = Wav2Vec2ForCTC(config).eval()
    state = {renamed(name): tensor for name, tensor in torch.load(weights, weights_only=True).items()}
    model.load_state_dict(state, strict=True)
    if precision == "bf16":
        model = model.to(torch.bfloat16)
    if precision == "int8-dynamic":
        model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.json"
        vocabulary.write_text(json.dumps({symbol: number for number, symbol in enumerate(SYMBOLS)}))
        # the tokenizer's padding symbol is the blank
        tokenizer = Wav2Vec2CTCTokenizer(
            str(vocabulary),
            pad_token="<s>",
            bos_token="<pad>",
            eos_token="</s>",
            unk_token="<unk>",
            word_delimiter_token="|",
        )
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, sampling_rate=RATE)

    def recognise(waves: list[Any]) -> list[str]:
        inputs = extractor(waves, sampling_rate=RATE, return_tensors="pt", padding=True).input_values
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
            logits = model(inputs.to(torch.bfloat16) if precision == "bf16" else inputs).logits
        return tokenizer.batch_decode(logits.argmax(dim=-1))

    return recognise


# -- measuring ---------------------------------------------------------------------------------------------------------


def serve(system: str, weights: str, args: argparse.Namespace) -> None:
    """Run one system in this process.

    Each input line is a batch size; the answer is a line of JSON with seconds, texts, peak memory and version.
    """
    import torch

    torch.set_num_threads(args.threads)
    name, precision = system.split("-", 1)
    recognise = {"ours": ours, "transformers": transformers}[name](precision, weights, args.layers)
    waves = clips(max(BATCHES), args.seconds)
    for line in sys.stdin:
        began = time.perf_counter()
        texts = recognise(waves[: int(line)])
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "texts": texts, "peak_gb": peak, "torch": torch.__version__}), flush=True)


def start(python: str, system: str, weights: str, args: argparse.Namespace) -> subprocess.Popen[str]:
    """Start a process of this interpreter that serves a system; `write-weights` writes the weights and exits."""
    threads = str(args.threads)
    path = str(REPOSITORY) if not system.startswith("transformers") else ""
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONPATH": path}
    command = [python, str(Path(__file__).resolve()), "--child", system, "--weights", weights, "--threads", threads]
    command += ["--seconds", str(args.seconds), "--layers", str(args.layers)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=environment, cwd=tempfile.gettempdir(), **pipes)


def one_pass(process: subprocess.Popen[str], batch: int) -> dict[str, Any]:
    assert process.stdin is not None and process.stdout is not None
    print(batch, file=process.stdin, flush=True)
    while not (line := process.stdout.readline()).startswith("{"):  # libraries can print too
        if not line:
            raise SystemExit(f"The process ended: {' '.join(process.args)}")  # type: ignore[arg-type]
    return json.loads(line)


def take_turns(systems: list[str], weights: str, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Per system: seconds of each round by batch size; texts, peak memory and version of the last pass."""
    runs: dict[str, dict[str, Any]] = {system: {"seconds": {batch: [] for batch in BATCHES}} for system in systems}
    processes = {
        system: start(sys.executable if system in OURS else args.peer_python, system, weights, args)
        for system in systems
    }
    try:
        for number in range(args.rounds + 1):
            for batch in BATCHES:
                shown = []
                for system, process in processes.items():
                    found = one_pass(process, batch)
                    shown.append(f"{system} {found['seconds']:.3f}")
                    if number > 0:  # the first is the warm-up
                        runs[system]["seconds"][batch].append(found.pop("seconds"))
                    runs[system] |= {key: value for key, value in found.items() if key != "seconds"}
                print(f"round {number}, batch {batch}: {', '.join(shown)} s", flush=True)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    return runs


def summary(run: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Medians over the rounds, with the spread."""
    found: dict[str, Any] = {"peak_gb": round(run["peak_gb"], 2), "torch": run["torch"]}
    for batch, seconds in run["seconds"].items():
        spread = {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}
        found[f"batch_{batch}"] = {
            "audio_seconds_a_second": round(batch * args.seconds / spread["median"], 2),
            "seconds": {name: round(value, 3) for name, value in spread.items()},
        }
    return found


def quotients(runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Quotients of ours and the peer's best, by median of the rounds and by minimum time, with their targets.

    Other processes only make a pass slower, so on a shared machine the minimum is more reliable.
    """
    result = {}
    for name, groups in TARGETS.items():
        for batch in BATCHES:
            present = [
                {system: runs[system]["seconds"][batch] for system in group if system in runs} for group in groups
            ]
            if not all(present):
                continue
            own, peer = (min(group, key=lambda system: statistics.median(group[system])) for group in present)
            rounds = [theirs / ours for theirs, ours in zip(present[1][peer], present[0][own], strict=True)]
            least = min(map(min, present[1].values())) / min(map(min, present[0].values()))
            quotient = statistics.median(rounds)
            result[f"{name}, batch {batch}"] = {
                **{
                    "ours": own,
                    "theirs": peer,
                    "quotient": round(quotient, 3),
                    "of_rounds": [round(value, 2) for value in sorted(rounds)],
                },
                **{"quotient_of_least": round(least, 3), "wanted": TARGET, "reached": quotient >= TARGET},
            }
    return result


def agreement(runs: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Share of characters that each system's texts have in common with ours in fp32."""
    from difflib import SequenceMatcher

    if "ours-fp32" not in runs:
        return {}
    texts = {system: "\n".join(run["texts"]) for system, run in runs.items()}
    return {
        system: round(SequenceMatcher(None, texts["ours-fp32"], text, autojunk=False).ratio(), 4)
        for system, text in texts.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer-python", help="interpreter of an environment that has transformers")
    parser.add_argument(
        "--systems", default=",".join(SYSTEMS), help=f"systems to measure (default: {','.join(SYSTEMS)})"
    )
    parser.add_argument("--rounds", type=int, default=9, help="passes per system and batch size (default: 9)")
    parser.add_argument("--threads", type=int, default=2, help="threads per process (default: 2)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a clip (default: 10)")
    parser.add_argument("--layers", type=int, default=12, help="blocks of the encoder (default: 12, base)")
    parser.add_argument("--name", default="greedy_decoding", help="name of the result file (default: greedy_decoding)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child == "write-weights":
        import torch

        torch.save(our_model(args.layers)[0].state_dict(), args.weights)
        return 0
    if args.child:
        serve(args.child, args.weights, args)
        return 0

    import results_file

    load = round(os.getloadavg()[0], 2)  # of other processes, over the last minute
    systems = [system for system in args.systems.split(",") if args.peer_python or system in OURS]
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "weights.pt")
        if start(sys.executable, "write-weights", weights, args).wait() != 0:
            raise SystemExit("The weights could not be written. See the error above.")
        runs = take_turns(systems, weights, args)
    setting = {
        "seconds_of_audio_each": args.seconds,
        "threads": args.threads,
        "rounds": args.rounds,
        "layers": args.layers,
    }
    found = {system: summary(run, args) for system, run in runs.items()}
    result = {
        "setting": {**setting, "load_before": load},
        "systems": found,
        "quotients": quotients(runs),
        "agreement": agreement(runs),
    }
    path = results_file.write(args.name, result)
    print(json.dumps({name: result[name] for name in ("systems", "quotients", "agreement")}, indent=1))
    print(f"results: {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
