"""Every command of README and docs, run in the order in which a reader types them, on seconds of audio and a tiny
model.

What is added to a command makes it small and puts it on the CPU; nothing else of it changes. A page's Python lines run
too.
"""

from __future__ import annotations

import ast
import importlib.util
import itertools
import json
import re
import shlex
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from fairseq.checkpoint import io
from fairseq.inference.model import SpeechModel
from tests.conftest import FAKES, REPOSITORY
from tests.drills.cases import COMMANDS
from tests.integration.conftest import write_audio
from tests.warm import Warm

FIRST = ("README.md", "docs/pretraining.md", "docs/fine-tuning.md")  # the others use what these make
PAGES = sorted(
    str(path.relative_to(REPOSITORY))
    for path in (REPOSITORY / "docs").rglob("*.md")
    if str(path.relative_to(REPOSITORY)) not in FIRST
)
NOT_RUN = {
    "make": "sets up an environment",
    "pip": "sets up an environment",
    "source": "is the shell's",
    "sudo": "needs Gaudi's network links",
    "mpirun": "tests/unit/distributed/test_place.py has its variables",
    "srun": "tests/unit/distributed/test_place.py has its variables",
    "torchrun": "tests/integration/test_recipe_commands.py",
    "torch.distributed.launch": "tests/integration/test_recipe_commands.py",
    "checkpoint.save_dir=s3://bucket/base": "tests/unit/checkpoint/test_remote.py",
    "task.multi_corpus_keys='german,french'": "tests/unit/tasks/test_audio_pretraining.py",
    "--add-band": "tests/unit/doctor/bands",
    "omni.pt": "tests/unit/conversion/test_fairseq2_model.py",
    "--serve": "tests/unit/doctor/test_report_server.py",
    "hydra/launcher=dependency_submitit_slurm": "tests/integration/test_submitit_launcher.py",
}
_BLOCK = re.compile(
    r"^(?P<indent>[ ]*)```(?P<language>bash|python)\n(?P<text>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL
)
_VARIABLE = re.compile(r"([A-Z_]+)=(.*)")

SMALL = shlex.split(
    "common.cpu=true common.fp16=false dataset.num_workers=0 dataset.max_tokens=64000 "
    "dataset.required_batch_size_multiple=1 distributed_training.distributed_world_size=1 "
    "'optimization.update_freq=[1]' optimization.max_update=2 "
)
SMALL_MODEL = shlex.split(
    "model.encoder_layers=1 model.encoder_embed_dim=16 model.encoder_ffn_embed_dim=16 "
    "model.encoder_attention_heads=2 model.final_dim=8 model.latent_vars=8 model.latent_dim=0 "
    "'model.conv_feature_layers=[(8,10,5)]+[(8,3,2)]*4+[(8,2,2)]*2' model.conv_pos=8 model.conv_pos_groups=2 "
    "model.num_negatives=4 task.max_sample_size=32000 task.min_sample_size=8000"
)
SMALL_FINE_TUNING = shlex.split("model.mask_channel_length=4")


class Step(NamedTuple):
    """A command, or a block of Python."""

    words: list[str]
    environment: dict[str, str]
    text: str = ""


def steps(page: Path) -> Iterator[Step]:
    for block in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        text = re.sub(rf"^{block['indent']}", "", block["text"], flags=re.MULTILINE)
        if block["language"] == "python":
            yield Step([], {}, text)
            continue
        if text.startswith("#!"):  # a script to write, not lines to type
            continue
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            variables = list(itertools.takewhile(_VARIABLE.fullmatch, words))
            if words[len(variables) :]:
                yield Step(words[len(variables) :], dict(word.split("=", 1) for word in variables))


def reason_not_to_run(step: Step) -> str | None:
    if step.text:
        names = [
            alias.name
            for node in ast.walk(ast.parse(step.text))
            if isinstance(node, ast.Import)
            for alias in node.names
        ]
        return next((f"needs {name}" for name in names if importlib.util.find_spec(name.split(".")[0]) is None), None)
    extras = {
        "adapter": "safetensors",
        "hf": "transformers",
        "onnx": "onnxruntime",
        "parquet": "pyarrow",
        "--lexicon": "kenlm",
        "--lm": "kenlm",
        "--html": "youplot",
        "fairseq-segment": "silero_vad",
        "fairseq-report": "youplot",
    }
    missing = [name for word, name in extras.items() if word in step.words and importlib.util.find_spec(name) is None]
    if missing:
        return f"needs {missing[0]}"
    return next((NOT_RUN[word] for word in step.words if word in NOT_RUN), None)


class Reader:
    """Somebody who types what a page says, in a folder with `examples` in it and a corpus at /path/to."""

    def __init__(self, warm: Warm, repository: Path, folder: Path) -> None:
        self.warm, self.repository = warm, repository
        self.here, self.there, self.kept = folder / "here", folder / "there", folder / "kept"
        self.here.mkdir(parents=True)
        (self.here / "examples").symlink_to(repository / "examples")
        make_librispeech(self.there / "LibriSpeech")

    def replaced(self, text: str) -> str:
        """The same with this reader's paths, and with sizes that fit the model."""
        text = re.sub(r"/path/(to|with)/", f"{self.there}/", text)
        text = re.sub(r"--feature \d+", "--feature 0", text)  # of one block
        text = re.sub(r"--num-workers \d+", "--num-workers 1", text)  # enough for four files
        return text.replace("--valid-percent 0.01", "--valid-percent 0.3").replace(" = 768", " = 16")

    def do(self, step: Step) -> None:
        """Type it, and find that it works."""
        if step.text:
            done, shown, program = self.warm.python(self.replaced(step.text), self.here), step.text, "python"
        else:
            program, *arguments = self.expanded(shlex.split(self.replaced(shlex.join(step.words))))
            shown = shlex.join([program, *arguments])
            if program == "python":
                done = self.warm.script(self.repository / arguments[0], arguments[1:], self.here)
            else:
                on_card = program == "fairseq-hydra-train" and "hpu" in shown
                environment = dict(step.environment, **({"PYTHONPATH": str(FAKES)} if on_card else {}))
                done = self.warm.module(
                    COMMANDS[program], [*arguments, *self.small(program, arguments)], self.here, environment
                )
        allowed = (0,)
        finds = program in ("fairseq-preflight", "fairseq-data-report", "fairseq-doctor")
        if finds and "Traceback" not in done.output:
            allowed = (0, 1)  # 1: it found something, as it must on such a corpus
        elif shown.startswith("fairseq-train "):
            allowed = (2,)  # it trains nothing
        assert done.code in allowed, f"{shown}\n{done.output[-3000:]}"

    def expanded(self, words: list[str]) -> list[str]:
        """File names for patterns, and the command for `$(which ...)`, as the shell gives them."""
        words = shlex.split(shlex.join(words).replace("'$(which fairseq-hydra-train)'", "fairseq-hydra-train"))
        return [
            name
            for word in words
            for name in (sorted(path.name for path in self.here.glob(word)) if "*" in word else [word])
        ]

    def small(self, program: str, words: list[str]) -> list[str]:
        """What is added to a command to make it small."""
        if program not in ("fairseq-hydra-train", "fairseq-preflight") or "--config-name" not in words:
            return []
        name = words[words.index("--config-name") + 1]
        if "--cfg" in words:  # shows the config as it is
            return []
        is_pretraining = (self.repository / "examples/wav2vec/config/pretraining" / f"{name}.yaml").exists()
        added = [*SMALL, *(SMALL_MODEL if is_pretraining else SMALL_FINE_TUNING)]
        if name == "classify":
            added.append("task.max_sample_size=32000")
        if program == "fairseq-preflight":
            added += ["--steps", "none"]  # test_preflight.py has those
        if "hpu" in name:
            added.remove("common.cpu=true")
        return added


def make_librispeech(root: Path) -> None:
    """LibriSpeech's layout: SPLIT/SPEAKER/CHAPTER/UTTERANCE.flac with transcripts beside them."""
    for number, split in enumerate(("train-960/train-clean-100", "train-clean-100", "dev-other")):
        for speaker in (19 + number, 27 + number):
            chapter = root / split / str(speaker) / "198"
            lines = []
            for i in range(5):
                name = f"{speaker}-198-{i:04d}"
                write_audio(chapter / f"{name}.flac", 1.2 + 0.1 * i, seed=100 * speaker + i)
                lines.append(f"{name} {('NORTHANGER ABBEY', 'AN OLD HOUSE')[i % 2]}\n")
            (chapter / f"{speaker}-198.trans.txt").write_text("".join(lines))


# a language with letters that are not Latin, marks that no letter of Unicode has, apostrophes and both cases
OWN_WORDS = ("Сала\u0301м", "йо\u2019лдош", "ҡара", "һыу", "ғаилә", "ӯрман", "Ёлка", "тау")


def make_own_language(there: Path, pretrained: Path) -> None:
    """Recordings with texts for docs/own-language.md, and a model like XLS-R."""
    rows = []
    for i in range(12):
        name = f"speaker{i % 3}/{i:02d}.wav"
        write_audio(there / "recordings" / name, 1.5, seed=300 + i)
        words = [OWN_WORDS[(i * k + k) % len(OWN_WORDS)] for k in (1, 3, 5)]
        rows.append(f"{name}\t«{words[0]}» {words[1]}, {unicodedata.normalize('NFD', words[2])}!\n")
    (there / "recordings/transcripts.tsv").write_text("".join(rows), encoding="utf-8")
    (there / "more_text.txt").write_text("Ҡара ӯрман, һыу.\nСала\u0301м, № 5!\n", encoding="utf-8")
    state = io.load(pretrained)
    state["cfg"]["task"]["normalize"] = state["cfg"]["model"]["layer_norm_first"] = True  # as XLS-R
    io.save(state, there / "xlsr.pt")


def after_the_first_pages(reader: Reader) -> None:
    """Files that the other pages need, under the names that they have there."""
    here, there = reader.here, reader.there
    pretrained, finetuned = (
        here / "checkpoints/base/checkpoint_best.pt",
        here / "checkpoints/base_100h/checkpoint_best.pt",
    )
    for name in ("wav2vec_small.pt", "checkpoint_last.pt"):
        shutil.copy(pretrained, there / name)
    shutil.copy(finetuned, there / "finetuned.pt")
    shutil.copytree(there / "labelled", there / "labels")
    shutil.copytree(there / "manifest", there / "manifests")
    shutil.copytree(there / "labelled", there / "dict.ltr.txt")  # a folder, in the page
    shutil.copytree(there / "labelled", here / "DATA")
    shutil.copytree(there / "labelled", there / "languages")
    for split in ("train", "valid"):
        count = len((there / f"languages/{split}.tsv").read_text().splitlines()) - 1
        (there / f"languages/{split}.lang").write_text("".join(f"{('de', 'en')[i % 2]}\n" for i in range(count)))
    for name in ("wav2vec_small_960h.pt", "checkpoint_best.pt"):
        shutil.copy(finetuned, here / name)
    shutil.copy(pretrained, here / "checkpoint.pt")
    for split in ("test", "dev"):
        for ending in ("tsv", "ltr", "wrd"):
            shutil.copy(here / f"DATA/valid.{ending}", here / f"DATA/{split}.{ending}")
    shutil.copy(here / "DATA/train.wrd", here)
    write_audio(here / "talk.flac", 1.5, seed=7)
    (here / "talk.txt").write_text("an old house\n")
    write_audio(here / "interview.wav", 1.5, seed=8)
    row = '2026-11-29 02:00:00 | INFO | train_inner | {"epoch": 1, "loss": "6.6", "num_updates": "20"}\n'
    for name in ("train.log", "hydra_train.log"):
        (here / name).write_text(row)
    make_own_language(there, pretrained)
    make_ngram = reader.repository / "examples/wav2vec/make_ngram.py"
    for text, output in (("train.wrd", "words.bin"), ("train.wrd", "words.arpa"), ("train.ltr", "letters.arpa")):
        done = reader.warm.script(
            make_ngram, [str(here / "DATA" / text), "--output", output, "--lexicon", "lexicon.txt"], here
        )
        assert done.code == 0, done.output
    words = sorted(set((here / "DATA/train.wrd").read_text().split()))
    (here / "lexicon.txt").write_text("".join(f"{word}\n" for word in words))
    rows = []
    for split in ("train", "valid"):
        names = [line.split("\t")[0] for line in (there / f"manifest/{split}.tsv").read_text().splitlines()[1:]]
        rows += [f"{name}\tan old house" for name in names]
    (there / "transcripts.tsv").write_text("\n".join(rows) + "\n")
    for run in filter(Path.is_dir, (here / "checkpoints").iterdir()):
        shutil.copytree(run, reader.kept / run.name)


@pytest.fixture(scope="module")
def reader(warm: Warm, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """One who has read the README and the first guides, and typed all of them."""
    reader = Reader(warm, repository, tmp_path_factory.mktemp("reader"))
    write_audio(reader.here / "recording.flac", 1.5, seed=6)
    for page in FIRST:
        for step in steps(repository / page):
            if reason_not_to_run(step) is None:
                reader.do(step)
    after_the_first_pages(reader)
    return reader


@pytest.mark.slow
def test_commands_of_the_readme_and_the_first_guides(reader: Reader) -> None:
    for run in ("pretrained", "finetuned", "base", "base_100h"):
        assert (reader.kept / run / "checkpoint_best.pt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_docs(reader: Reader, page: str) -> None:
    # each page's run is the first in its folder; what the first pages trained is there
    shutil.rmtree(reader.here / "checkpoints", ignore_errors=True)
    shutil.copytree(reader.kept, reader.here / "checkpoints")
    for step in steps(REPOSITORY / page):
        if reason_not_to_run(step) is None:
            reader.do(step)
    if page == "docs/own-language.md":
        check_own_language(reader)


def check_own_language(reader: Reader) -> None:
    """The labels have one Unicode form, case and apostrophe everywhere: in dictionary, model and language model."""
    words = (reader.there / "corpus/train.wrd").read_text(encoding="utf-8").split()
    known = {"сала\u0301м", "йо'лдош", "ҡара", "һыу", "ғаилә", "ӯрман", "ёлка", "тау"}
    assert words and set(words) <= known
    model = SpeechModel.load(reader.here / "checkpoints/own/checkpoint_best.pt")
    assert set(model.dictionary().symbols[4:]) >= set("".join(words)) | {"|"}
    if (reader.here / "words.arpa").is_file():
        unigrams = (reader.here / "words.arpa").read_text(encoding="utf-8")
        assert "сала\u0301м" in unigrams and "№" not in unigrams and "Сала" not in unigrams
    results = json.loads((reader.here / "results/results.json").read_text(encoding="utf-8"))
    low, high = results["rates"]["cer"]["by_utterance"]
    assert low <= results["rates"]["cer"]["rate"] <= high
