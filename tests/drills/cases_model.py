"""Judges for cases of other projects' code that uses a loaded model."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator

from tests.drills.cases import Case, Ended, Finding, judges

# a pre-trained and a fine-tuned checkpoint where the cases look for them, made by the tree under test
CHECKPOINTS = """
import os, torch, fairseq
from fairseq.data.dictionary import Dictionary
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig, Wav2VecCtc
from fairseq.dataclass.utils import config_to_container
os.makedirs("$CASES/downstream/mans", exist_ok=True)
letters = "| E T A O N I H S R D L U M C W F G Y P B V K ' X J Q Z".split()
open("$CASES/downstream/mans/dict.ltr.txt", "w").write("".join(f"{letter} 1\\n" for letter in letters))
dictionary = Dictionary.load("$CASES/downstream/mans/dict.ltr.txt")
torch.manual_seed(0)
conv = "[(16,10,5)]+[(16,3,2)]*4+[(16,2,2)]*2"
config = Wav2Vec2Config(encoder_layers=2, encoder_embed_dim=32, encoder_ffn_embed_dim=32, encoder_attention_heads=4, conv_pos_groups=4,
                        conv_feature_layers=conv, quantize_targets=True, final_dim=16, latent_vars=8)
pretrained = Wav2Vec2Model(config)
inner = {"model": {**config_to_container(config), "_name": "wav2vec2"}, "task": {"_name": "audio_pretraining", "data": "/gone"}}
def save(name, cfg, model, **more):
    os.makedirs(f"$CASES/downstream/ck/{name}", exist_ok=True)
    state = {"cfg": cfg, "args": None, "model": model.state_dict(), "extra_state": {}, "optimizer_history": [{"num_updates": 10}], **more}
    torch.save(state, f"$CASES/downstream/ck/{name}/checkpoint_last.pt")
save("base768", inner, pretrained)
class Task: target_dictionary = dictionary
tuned = Wav2VecCtc.build_model(Wav2Vec2CtcConfig(w2v_args=inner, apply_mask=True), Task)
model = {**config_to_container(Wav2Vec2CtcConfig(w2v_args=inner, apply_mask=True)), "_name": "wav2vec_ctc"}
model.update(normalize=False, data="/gone", ddp_backend="pytorch_ddp", w2v_path="/gone.pt")
task = {"_name": "audio_finetuning", "data": "/gone", "labels": "ltr"}
save("base768_ft", {"model": model, "task": task}, tuned, task_state={"target_dictionary": dictionary.state_dict()})
"""


def run_case(case: Case, text: str, *arguments: str) -> Ended:
    """Run Python code with the path of its checkpoints filled in, after making these."""
    if not (case.cases / "downstream/ck").exists():
        made = case.python(CHECKPOINTS.replace("$CASES", str(case.cases)))
        assert made.code == 0, made.output
    return case.run_line([sys.executable, "-c", text.replace("$CASES", str(case.cases)), *arguments])


def text_of(case: Case) -> str:
    """Return the case's own script."""
    return (case.shared / "cases" / f"{case.name}.py").read_text(encoding="utf-8")


def lines(ended: Ended, about: str) -> Iterator[str]:
    """Yield the result lines, which match `about` at their start."""
    found = [line for line in ended.output.splitlines() if re.match(about, line)]
    yield from found or [ended.last_line]


@judges("downstream/encoder_w2v_path")
def encoder_w2v_path(case: Case) -> Iterator[Finding]:
    for line in lines(run_case(case, text_of(case)), "all keys|without|w2v_args given"):
        match = re.fullmatch(r"(.*?) ((?:OK|\w+Error).*)", line)
        label, seen = match.groups() if match else ("ended", line)
        yield Finding(label, seen.startswith("OK"), seen)
    own = """
from argparse import Namespace
import torch, fairseq.checkpoint_utils
from omegaconf import OmegaConf
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecEncoder
path = "$CASES/downstream/ck/base768/checkpoint_last.pt"
stored = torch.load(path, weights_only=True)["model"]["encoder.layers.1.fc1.weight"]
struct = OmegaConf.create({"w2v_path": path, "w2v_args": None, "of_my_own": 1}); OmegaConf.set_struct(struct, True)
for name, cfg in (("two keys in a Namespace", Namespace(w2v_path=path, w2v_args=None)), ("a struct of omegaconf", struct),
                  ("a decoder's width", Namespace(w2v_path=path, w2v_args=None, decoder_embed_dim=12))):
    try:
        encoder = Wav2VecEncoder(cfg)
        again = Wav2VecEncoder(cfg)  # now from the w2v_args that the config was given
        width = None if encoder.proj is None else encoder.proj.out_features
        same = torch.equal(encoder.w2v_model.encoder.layers[1].fc1.weight, stored)
        print("own:", name, "|", "OK" if same and width == (12 if "width" in name else None) else f"weights {same}, width {width}")
    except Exception as error: print("own:", name, "|", type(error).__name__, str(error)[:60])
"""
    for line in lines(run_case(case, own), "own:"):
        label, _, seen = line.partition(" | ")
        yield Finding(label[:40], seen == "OK", seen or line[-90:])


MODEL = """
import torch
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
torch.manual_seed(0)
model = Wav2Vec2Model(Wav2Vec2Config(encoder_layers=2,encoder_embed_dim=32,encoder_ffn_embed_dim=32,encoder_attention_heads=4,
    conv_pos_groups=4,conv_feature_layers="[(16,10,5)]+[(16,3,2)]*4+[(16,2,2)]*2")).eval()
x = torch.randn(2, 16000)
padding = torch.zeros(2, 16000, dtype=torch.bool); padding[1, 8000:] = True
def frames(result): return None if result["padding_mask"] is None else result["padding_mask"].sum(1).tolist()
"""


@judges("downstream/float_padding_mask")
def float_padding_mask(case: Case) -> Iterator[Finding]:
    for line in lines(run_case(case, text_of(case)), "torch\\.(bool|uint8|int64|float32) "):
        dtype, padded, seen = [*line.split(maxsplit=2), "", ""][:3]
        yield Finding(
            f"{dtype} {'padded' if padded == '1' else 'no padding'}", seen.startswith("torch.Size"), seen[:80]
        )


@judges("downstream/int_padding_mask")
def int_padding_mask(case: Case) -> Iterator[Finding]:
    """Judge the case's inputs without its script, which fails because the model returns None for an all-false mask."""
    text = """
for dtype in (torch.uint8, torch.long, torch.int32, torch.int8, torch.float16):
    for name, mask in (("no padding", torch.zeros_like(padding)), ("padded", padding)):
        one, other = (model.extract_features(x, padding_mask=m, mask=False) for m in (mask, mask.to(dtype)))
        difference = (one["x"] - other["x"]).abs().max().item()
        print("case", str(dtype).removeprefix("torch."), name, "|", [frames(one), frames(other), difference])
"""
    for line in lines(run_case(case, MODEL + text), "case"):
        label, _, seen = line.partition(" | ")
        own = "own: " * ("int8" in label.split()[1:2] or "float16" in label)
        counted, got, difference = ast.literal_eval(seen) if seen else (0, 1, 1)
        expected = None if "no padding" in label else [0, 25]
        yield Finding(
            own + label.removeprefix("case "), counted == got == expected and difference == 0, seen or line[-90:]
        )


@judges("downstream/layer_minus_one")
def layer_minus_one(case: Case) -> Iterator[Finding]:
    for line in lines(run_case(case, text_of(case)), "layer_norm_first"):
        label, _, seen = line.partition(" | ")
        right = seen == "layer=-1: 3 results, x equals the last layer's: True | layer=24 of 3: 3 True"
        yield Finding(label, right, seen or line[-90:])
    own = """
result = model.extract_features(x, padding, mask=False, layer=-7)
print("own: layer=-7 with padding |", len(result["layer_results"]), torch.equal(result["x"], model.extract_features(x, padding)["x"]))
"""
    for line in lines(run_case(case, MODEL + own), "own"):
        label, _, seen = line.partition(" | ")
        yield Finding(label[:40], seen == "2 True", seen or line[-90:])


@judges("downstream/mask_attributes")
def mask_attributes(case: Case) -> Iterator[Finding]:
    output = run_case(case, text_of(case)).output
    for name, there in re.findall(r"(\w+) (True|False);", output):
        yield Finding(name, there == "True", there)
    # of 49 frames: the two spans of ten that there are at least
    masked = re.search(r"after model.mask_prob=0.1: (\d+)", output)
    yield Finding(
        "masked after mask_prob=0.1",
        masked is not None and 0 < int(masked[1]) <= 20,
        masked[1] if masked else output[-90:],
    )
    own = """
model.mask_prob, model.mask_length, model.mask_channel_prob, model.mask_channel_length = 0.3, 2, 0.5, 4
masked, hidden = model.apply_mask(torch.ones(2, 400, 32), None)
print("own: |", bool(0 < hidden.float().mean() < 0.35 and 0 < (masked == 0).float().mean() < 0.7))
"""
    for line in lines(run_case(case, MODEL + own), "own"):
        yield Finding("own: mask_length and channels", line.endswith(" True"), line[-60:])


@judges("downstream/trace_lengths")
def trace_lengths(case: Case) -> Iterator[Finding]:
    for how in ([], ["patch"]):
        path = str(case.cases / "downstream/ck/base768/checkpoint_last.pt")
        for line in lines(run_case(case, text_of(case), path, *how), r"\d{5} "):
            difference = re.search(r"\) ([\d.e-]+)$", line)
            right = difference is not None and float(difference[1]) < 1e-4
            yield Finding(f"{' '.join(how)} {line.split(' ')[0]}".strip(), right, line[:90])
    own = """
import warnings; warnings.filterwarnings("ignore")
model.requires_grad_(False)
class Padded(torch.nn.Module):
    def forward(self, x, padding): return model(x, padding, mask=False, features_only=True)["x"]
graph = torch.jit.trace(Padded(), (x, padding), check_trace=False)
for n in (12345, 16400):
    y = torch.randn(3, n); mask = torch.arange(n) >= torch.tensor([[n], [n // 2], [n // 3]])
    keep = ~model.extract_features(y, mask)["padding_mask"]
    print("own: with padding |", n, (graph(y, mask) - Padded()(y, mask))[keep].abs().max().item())
"""
    for line in lines(run_case(case, MODEL + own), "own"):
        label, _, seen = line.partition(" | ")
        yield Finding(label[:40], bool(seen) and float(seen.split()[1]) < 1e-4, seen or line[-90:])
