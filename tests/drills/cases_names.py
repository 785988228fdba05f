"""Judges for fairseq's public names: `downstream/import_fairseq_attr` and the start of `downstream/hf_convert`."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tests.drills.cases import Case, Finding, judges

# full names, by how other projects reach them; each must resolve, or fail with one sentence that names it and says what
# to use
IMPORTS = {
    "import fairseq.metrics": True,
    "from fairseq import metrics, meters, progress_bar, distributed_utils, file_io, options": True,
    "from fairseq.distributed_utils import get_rank": True,
    "from fairseq.file_io import PathManager": True,
    "from fairseq.models import FairseqEncoder, FairseqEncoderModel": True,
    "from fairseq.data import ConcatDataset, BaseWrapperDataset, SubsampleDataset": True,
    "from fairseq.data.data_utils import compute_mask_indices": True,
    "from fairseq.modules import LayerDropModuleList": True,
    "from fairseq.modules.quant_noise import quant_noise": True,
    "from fairseq.modules.fairseq_dropout import FairseqDropout": True,
    "from fairseq.models.wav2vec.wav2vec2 import pad_to_multiple, ConformerWav2Vec2EncoderLayer": True,
    "from fairseq.models.wav2vec.wav2vec2_asr import Embedding, base_architecture": True,
    "from fairseq.models.wav2vec import ConvFeatureExtractionModel, TransformerEncoder": True,
    "from fairseq.dataclass.utils import gen_parser_from_dataclass": True,
    "from fairseq.tasks import LegacyFairseqTask": True,
    "from fairseq.utils import strip_pad, split_paths, log_softmax, softmax, buffered_arange, is_xla_tensor, "
    "safe_getattr": True,
    "from fairseq.data.audio.audio_utils import get_fbank": True,
    "from fairseq.data import encoders": False,
    "from fairseq.models.hubert import HubertModel": False,
    "from fairseq.tasks.hubert_pretraining import HubertPretrainingTask": False,
    "from fairseq.models.transformer import Embedding": False,
    "from fairseq.modules import PositionalEmbedding": False,
    "from fairseq.data.audio.speech_to_text_dataset import SpeechToTextDataset": False,
    "from fairseq.options import get_generation_parser": False,
    "from fairseq.utils import replace_unk": False,
    "from fairseq.search import BeamSearch": False,
}
TRY = """
import json
results = {}
for statement in json.loads(%r):
    try:
        exec(statement, {})
        results[statement] = ""
    except ImportError as error:
        results[statement] = str(error)
print(json.dumps(results))
"""


@judges("downstream/import_fairseq_attr")
def attributes_after_a_plain_import(case: Case) -> Iterable[Finding]:
    ended = case.python((case.shared / "cases/downstream/import_fairseq_attr.py").read_text(encoding="utf-8"))
    rows = [line.split() for line in ended.output.splitlines() if line.endswith((" True", " False"))]
    missing = [name for name, found in rows if found == "False"]
    yield Finding(
        "", len(rows) == 37 and not missing, f"{len(rows) - len(missing)} of {len(rows)} resolve; missing: {missing}"
    )
    ended = case.python(TRY % json.dumps(list(IMPORTS)))
    results = json.loads(ended.output.splitlines()[-1]) if ended.code == 0 else {}
    for statement, works in IMPORTS.items():
        error = results.get(statement, "no result")
        right = error == "" if works else " is not offered " in error
        yield Finding(f"own: {statement}", right, error or "works")
    ended = case.python(
        "import fairseq; print('transcribe' in dir(fairseq), 'Path' in dir(fairseq), 'warn_of_rivals' in dir(fairseq))"
    )
    yield Finding(
        "own: dir(fairseq) shows transcribe, hides Path and helpers",
        ended.last_line == "True False False",
        ended.last_line,
    )


@judges("downstream/hf_convert")
def first_steps_of_conversion_scripts(case: Case) -> Iterable[Finding]:
    (case.work / "dict.ltr.txt").write_text("| 94802\nE 51860\nT 38431\n", encoding="utf-8")
    script = (case.shared / "cases/downstream/hf_convert.py").read_text(encoding="utf-8")
    ended = case.python(script.replace("$CASES/downstream/mans/dict.ltr.txt", str(case.work / "dict.ltr.txt")))
    lines = ended.output.splitlines()
    step_1 = [line for line in lines if line.startswith("1 ")]
    yield Finding("attribute checkpoint_utils", ended.code == 0 and not step_1, step_1[0] if step_1 else "resolves")
    step_2 = [line for line in lines if "AudioPretrainingTask" in line or line.startswith("2 ")]
    yield Finding(
        "setup_task(Namespace)",
        bool(step_2) and "AudioPretrainingTask object" in step_2[0],
        step_2[0][:80] if step_2 else "no",
    )
    seen = [line[2:] for line in lines if line.startswith("3 ")]
    wanted = [
        "pad_index 1",
        "bos_index 0",
        "eos_index 2",
        "unk_index 3",
        "unk_word <unk>",
        "pad_word <pad>",
        "bos_word <s>",
        "eos_word </s>",
    ]
    yield Finding("index attributes of a dictionary", seen == wanted, "; ".join(seen))
    (case.work / "again.txt").write_text("<unk> 1 #fairseq:overwrite\nA 1\nA 1\n", encoding="utf-8")
    own = (
        "from fairseq.data import Dictionary\n"
        "try: Dictionary.load('again.txt')\n"
        "except RuntimeError as error: print('RuntimeError', error)\n"
        "open('again.txt', 'w').write('<unk> 1 #fairseq:overwrite\\nA 1\\n')\n"
        "print(Dictionary.load('again.txt').unk_index)"
    )
    ended = case.python(own)
    right = ended.output.startswith("RuntimeError") and ended.last_line == "3"
    yield Finding(
        "own: duplicates are a RuntimeError, <unk> stays at 3", right, " / ".join(ended.output.splitlines()[-2:])[:120]
    )
    ended = case.python(
        "import argparse, fairseq\n"
        "args = argparse.Namespace(arch='wav2vec2', task='audio_pretraining', encoder_layers=1, "
        "encoder_embed_dim=8, lr='0.1', encoder_ffn_embed_dim=8, encoder_attention_heads=2, "
        "conv_feature_layers='[(4, 3, 2)]', conv_pos=2, conv_pos_groups=1)\nimport fairseq.tasks\n"
        "print(type(fairseq.tasks.setup_task(args).build_model(args)).__name__)"
    )
    yield Finding("own: build_model(Namespace)", ended.last_line == "Wav2Vec2Model", ended.last_line[:80])
    ended = case.python(
        "import fairseq.checkpoint_utils as c\n"
        "for load in (c.load_model_ensemble_and_task, c.load_checkpoint_to_cpu):\n"
        "    try: load('nothing.pt')\n"
        "    except FileNotFoundError as error: print(error)\n"
    )
    lines = ended.output.splitlines()
    right = ended.code == 0 and len(lines) == 2 and all("nothing.pt" in line for line in lines)
    yield Finding("own: a missing file, by a plain string, is FileNotFoundError", right, ended.last_line[:120])


@judges("downstream/old_commands")  # no folder: the issue names the commands
def old_commands(case: Case) -> Iterable[Finding]:
    ended = case.run(
        "fairseq-train",
        "/d",
        "--arch",
        "wav2vec2",
        "--task",
        "audio_pretraining",
        "--restore-file",
        "x.pt",
        "--lr",
        "0.0005",
    )
    right = ended.code not in (0, -9) and all(
        part in ended.output
        for part in (
            "task=audio_pretraining",
            "model=wav2vec2",
            "task.data=/d",
            "checkpoint.restore_file=x.pt",
            "lr=[0.0005]",
        )
    )
    yield Finding("own: fairseq-train", right, ended.last_line[:100])
    ended = case.run("fairseq-hydra-train", "--restore-file", "x.pt", "--save-dir", "d")
    right = (
        "fairseq-hydra-train checkpoint.restore_file=x.pt checkpoint.save_dir=d" in ended.output
        and ended.code not in (0, -9)
    )
    yield Finding("own: fairseq-hydra-train --restore-file", right, ended.last_line[:100])
    ended = case.run(
        "fairseq-validate", "/d", "--path", "nothing.pt", "--valid-subset", "valid", "--max-sentences", "2"
    )
    right = "fairseq-validate: Model file not found: nothing.pt" in ended.output and not ended.has_traceback
    yield Finding("own: fairseq-validate", right, ended.last_line[:100])
