"""Installation without a compiler: which wheels the package index has, and a training run from the built package.

    python -m tests.drills.wheels index [--versions 3.10 3.14] [--extras decode onnx] [--platform aarch64-manylinux_2_28]
    python -m tests.drills.wheels runs PYTHON... [--torch torch==2.14.1] [--tests "tests/unit -m 'not slow'"]

`index` resolves the requirements and each extra for each version of Python with `uv` (pip install uv), which applies
the version's own markers and downloads metadata only. It accepts wheels only. What has only a source distribution of
pure Python (`SOURCES`) is built here first, and must not need a compiler. The table says how many packages were
resolved, or which requirement has no wheel. This runs nothing on these versions.

`runs` builds the source distribution and from it the wheel, installs the wheel with each interpreter in a new
environment where no compiler can be found, and there makes a manifest, labels and a language model, pre-trains with two
processes and fine-tunes with one for two updates, each with two data-loading workers, transcribes with the language model, converts to
transformers' form and back, and asks every command for its help. `--tests` also runs tests of the unpacked source
distribution. PyPI's torch for Linux is a CUDA build of several GB.

The exit status is 1 if anything failed. An extra that no index has (`ELSEWHERE`) is no failure.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.drills.wheels_index import VERSIONS, print_table, resolve_all

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = "decode,convert,resample"
UPDATES = 2
SOUNDS = """
import sys, numpy, soundfile
folder, count = sys.argv[1], int(sys.argv[2])
random = numpy.random.default_rng(1)
for number in range(count):
    seconds = 1.5 + 0.1 * number
    tone = numpy.sin(numpy.arange(int(16000 * seconds)) * (0.05 + 0.01 * number))
    wave = (0.3 * tone + 0.01 * random.standard_normal(len(tone))).astype("float32")
    soundfile.write(f"{folder}/{number}.flac", wave, 16000)
"""
SMALL = [
    "model.conv_feature_layers=[(16,10,5)]+[(16,3,2)]*4+[(16,2,2)]*2",
    "model.encoder_layers=1",
    "model.encoder_embed_dim=32",
    "model.encoder_ffn_embed_dim=64",
    "model.encoder_attention_heads=2",
    "model.final_dim=16",
    "model.latent_vars=8",
    "model.conv_pos=16",
    "model.conv_pos_groups=4",
]
RUN = [
    "optimization.update_freq=[1]",
    f"optimization.max_update={UPDATES}",
    "dataset.num_workers=2",
    "common.cpu=true",
    "common.log_interval=1",
]
WORDS = ("ONE", "TWO", "THREE", "FOUR")


class Failed(Exception):
    """A step of a run did not do what it must."""


class Place(NamedTuple):
    """An environment with the package, and a folder to work in."""

    environment: Path
    folder: Path
    tests: Path  # the unpacked source distribution

    def variables(self) -> dict[str, str]:
        """Variables in which neither a compiler nor this checkout can be found."""
        none = shutil.which("false") or "/bin/false"
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        hidden = {"CC": none, "CXX": none, "PATH": str(self.environment / "bin")}
        return {**kept, **hidden, "OMP_NUM_THREADS": "1", "HOME": str(self.folder), "HF_HUB_OFFLINE": "1"}

    def run(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        """Run a program of the environment; returns its standard output."""
        command = [str(self.environment / "bin" / program), *arguments]
        done = subprocess.run(
            command, cwd=cwd or self.folder, env=self.variables(), capture_output=True, text=True, timeout=3600
        )
        if done.returncode != 0:
            raise Failed(f"{shlex.join([program, *arguments])[:200]}\n{(done.stdout + done.stderr)[-3000:]}")
        return done.stdout


# -- the steps ---------------------------------------------------------------------------------------------------------


def install(place: Place, wheel: Path, torch: str | None) -> str:
    """Install torch and the wheel, compiling nothing; returns what was installed."""
    sources: set[str] = set()
    count = 0
    for wanted in filter(None, (torch, f"{wheel}[{EXTRAS}]")):
        report = place.folder / "installed.json"
        place.run("python", "-m", "pip", "install", "--no-compile", "--quiet", "--report", str(report), wanted)
        for part in json.loads(report.read_text(encoding="utf-8"))["install"]:
            count += 1
            if not part["download_info"]["url"].endswith(".whl"):
                sources.add(part["metadata"]["name"])
    return f"{count} packages, from source: {', '.join(sorted(sources)) or 'none'}"


def write_data(place: Place) -> str:
    """Make audio, a manifest, labels, a dictionary, a lexicon and a language model, with the package's own commands."""
    audio, data = place.folder / "audio", place.folder / "data"
    audio.mkdir()
    place.run("python", "-c", SOUNDS, str(audio), "12")
    place.run("fairseq-manifest", str(audio), "--dest", str(data), "--ext", "flac", "--valid-percent", "0.25")
    lines = []
    for name in ("train", "valid"):
        files = [line.split("\t")[0] for line in (data / f"{name}.tsv").read_text().splitlines()[1:]]
        if not files:
            raise Failed(f"fairseq-manifest wrote no line to {name}.tsv")
        lines += [f"{file}\t{WORDS[i % 4]} {WORDS[(i + 1) % 4]}" for i, file in enumerate(files)]
    (place.folder / "texts.tsv").write_text("\n".join(lines) + "\n")
    manifests = [str(data / "train.tsv"), str(data / "valid.tsv")]
    place.run("fairseq-prepare-labels", *manifests, "--layout", "tsv", "--transcripts", str(place.folder / "texts.tsv"))
    model = ["--output", str(place.folder / "words.arpa"), "--lexicon", str(place.folder / "lexicon.txt")]
    place.run("fairseq-make-ngram", str(data / "train.wrd"), *model)
    return f"{len(lines)} utterances"


def train(place: Place, name: str, config: str, processes: int, *overrides: str) -> str:
    """Train with a stock config; returns the losses of the updates."""
    words = [
        f"task.data={place.folder / 'data'}",
        f"checkpoint.save_dir={place.folder / name}",
        "--config-name",
        config,
    ]
    words.append(f"distributed_training.distributed_world_size={processes}")
    place.run("fairseq-hydra-train", *words, *RUN, *overrides)
    rows = map(json.loads, (place.folder / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    losses = [float(row["loss"]) for row in rows if row["split"] == "train_inner"]
    if len(losses) != UPDATES or not (place.folder / name / "checkpoint_last.pt").is_file():
        raise Failed(f"{config}: {len(losses)} updates in metrics.jsonl, {UPDATES} wanted")
    return "loss " + ", ".join(f"{loss:.3f}" for loss in losses)


def transcribe(place: Place, checkpoint: Path) -> str:
    """Transcribe one file with lexicon and language model; returns the text."""
    options = ["--lexicon", "lexicon.txt", "--lm", "words.arpa", "--format", "json"]
    shown = place.run("fairseq-transcribe", str(place.folder / "audio" / "3.flac"), "--path", str(checkpoint), *options)
    text = str(json.loads(shown.splitlines()[0])["text"])
    if not set(text.split()) <= set(WORDS):
        raise Failed(f"fairseq-transcribe found {text!r}, which has words that the lexicon lacks")
    return repr(text)


def convert(place: Place, checkpoint: Path) -> str:
    """Convert to transformers' form and back; the greedy text must stay the same."""
    place.run("fairseq-convert", "--to", "hf", str(checkpoint), "hf")
    place.run("fairseq-convert", "--to", "fairseq", "hf", "back.pt")
    file = str(place.folder / "audio" / "5.flac")
    texts = {
        place.run("fairseq-transcribe", file, "--path", path, "--format", "json")
        for path in (str(checkpoint), "back.pt")
    }
    if len({json.loads(text.splitlines()[0])["text"] for text in texts}) != 1:
        raise Failed(f"another text after conversion there and back: {texts}")
    return "equal"


def ask_for_help(place: Place) -> str:
    """Run every command with --help."""
    commands = {path.name for path in (place.environment / "bin").glob("fairseq-*")}
    commands.remove("fairseq-train")  # it only translates old command lines, and ends with an error status
    for name in sorted(commands):
        if "usage" not in place.run(name, "--help").lower() and name != "fairseq-hydra-train":
            raise Failed(f"{name} --help shows no usage")
    return f"{len(commands)} commands"


def run_tests(place: Place, arguments: str) -> str:
    """Run tests of the source distribution; returns pytest's last line."""
    place.run("python", "-m", "pip", "install", "--no-compile", "--quiet", "pytest", "pytest-timeout", "pytest-xdist")
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *shlex.split(arguments)]
    return place.run("python", *words, cwd=place.tests).strip().splitlines()[-1]


# -- all of it ---------------------------------------------------------------------------------------------------------


def build(folder: Path) -> tuple[Path, Path]:
    """Build from a copy of the checkout's tracked files; returns (wheel, unpacked source distribution)."""
    copy = folder / "checkout"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    tools = folder / "tools"
    subprocess.run([sys.executable, "-m", "venv", str(tools)], check=True)
    python = str(tools / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "build", "twine"], check=True, capture_output=True)
    built = folder / "built"
    subprocess.run([python, "-m", "build", "--outdir", str(built), str(copy)], check=True, capture_output=True)
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    subprocess.run([python, "-m", "twine", "check", "--strict", str(wheel), str(source)], check=True)
    shutil.unpack_archive(source, folder / "source", filter="data")
    (unpacked,) = (folder / "source").iterdir()
    return wheel, unpacked


def run_with(interpreter: str, built: tuple[Path, Path], folder: Path, torch: str | None, tests: str | None) -> bool:
    """Install and run everything with one interpreter; prints a line for each step, and returns whether all worked."""
    wheel, unpacked = built
    version = subprocess.run([interpreter, "-V"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"{version}  ({interpreter})", flush=True)
    place = Place(folder / "environment", folder / "work", unpacked)
    place.folder.mkdir(parents=True)
    subprocess.run([interpreter, "-m", "venv", str(place.environment)], check=True)
    fine_tuned = place.folder / "fine-tuned" / "checkpoint_last.pt"
    start = f"model.w2v_path={place.folder / 'pre-trained' / 'checkpoint_last.pt'}"
    steps = {
        "install": lambda: install(place, wheel, torch),
        "torch": lambda: place.run("python", "-c", "import torch; print(torch.__version__)").strip(),
        "data": lambda: write_data(place),
        "pre-train": lambda: train(place, "pre-trained", "wav2vec2_base_librispeech", 2, *SMALL),
        "fine-tune": lambda: train(place, "fine-tuned", "base_100h", 1, "dataset.valid_subset=valid", start),
        "transcribe": lambda: transcribe(place, fine_tuned),
        "convert": lambda: convert(place, fine_tuned),
        "help": lambda: ask_for_help(place),
    }
    if tests is not None:
        steps["tests"] = lambda: run_tests(place, tests)
    for name, step in steps.items():
        began = time.monotonic()
        try:
            found = step()
        except Failed as error:
            print(f"  {name:<11} FAILED: {error}", flush=True)
            return False
        print(f"  {name:<11} {found}  ({time.monotonic() - began:.0f} s)", flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parts = parser.add_subparsers(dest="part", required=True)
    index = parts.add_parser("index", help="which wheels the package index has")
    index.add_argument("--versions", nargs="+", default=list(VERSIONS), help="versions of Python")
    index.add_argument("--extras", nargs="+", help="these extras only")
    index.add_argument("--platform", default="x86_64-manylinux_2_28", help="uv's name of the platform")
    runs = parts.add_parser("runs", help="install and run with these interpreters")
    runs.add_argument("pythons", nargs="+", metavar="PYTHON")
    runs.add_argument("--torch", help="requirement of torch that is installed first")
    runs.add_argument("--tests", help="arguments of pytest, in one string")
    args = parser.parse_args()
    if args.part == "index":
        return print_table(resolve_all(ROOT, args.versions, args.extras, args.platform))
    with tempfile.TemporaryDirectory() as name:
        built = build(Path(name))
        worked = True
        for number, python in enumerate(args.pythons):
            folder = Path(name) / str(number)
            worked &= run_with(python, built, folder, args.torch, args.tests)
            shutil.rmtree(folder)  # an environment with torch has several GB
    return 0 if worked else 1


if __name__ == "__main__":
    sys.exit(main())
