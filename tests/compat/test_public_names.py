"""Every public name of fairseq resolves, or says in one sentence that it is not offered and what to use instead."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq.public_names import elsewhere, not_offered

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(__file__).parent / "data"
# fairseq 0.12.2 (fairseq-fixed 0.12.3.1) and its main branch of 2024: every module outside `examples`
MODULES = (DATA / "fairseq_modules.txt").read_text(encoding="utf-8").split()
# "module: names", of the modules that downstream speech code imports from; + is new in main, - is gone there
LINES = (DATA / "fairseq_public_names.txt").read_text(encoding="utf-8").splitlines()
NAMES = [f"{line.split(':')[0]}.{name.lstrip('+-')}" for line in LINES for name in line.partition(":")[2].split()]
# what other projects touch after a plain `import fairseq`
ATTRIBUTES = """
    checkpoint_utils utils tasks models data criterions optim modules dataclass distributed logging scoring registry options trainer
    metrics meters progress_bar distributed_utils file_io file_utils hub_utils pdb search token_generation_constraints tokenizer
    iterative_refinement_generator sequence_generator nan_detector incremental_decoding_utils benchmark model_parallel
    quantization_utils ngram_repeat_block version speech_generator binarizer
"""
LEAST_RESOLVED = 314  # of 550; there were 261 before names were looked up in tables


def fresh(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def file_modules() -> list[str]:
    files = sorted((ROOT / "fairseq").rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]
    return [name for name in names if name != "fairseq" and not name.startswith("fairseq.public_names")]


EACH_IN_A_CHILD = """
import json, os, sys
import fairseq
before = set(sys.modules)
failed = []
for path in json.loads({paths!r}):
    child = os.fork()  # each looks at what a plain `import fairseq` left, not at what another look imported
    if child == 0:
        value = fairseq
        try:
            for name in path.split(".")[1:]:
                value = getattr(value, name)
        except AttributeError:
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(path)
print(json.dumps([failed, sorted(before)]))
"""


@pytest.fixture(scope="module")
def plain_import() -> tuple[list[str], list[str]]:
    """(attribute paths that do not resolve, modules that are loaded) after `import fairseq`, in a fresh process."""
    paths = [*(f"fairseq.{name}" for name in ATTRIBUTES.split()), *file_modules()]
    return tuple(json.loads(fresh(EACH_IN_A_CHILD.format(paths=json.dumps(paths)))))


def test_every_submodule_is_an_attribute_after_a_plain_import(plain_import: tuple[list[str], list[str]]) -> None:
    assert plain_import[0] == []


def test_a_plain_import_stays_light(plain_import: tuple[list[str], list[str]]) -> None:
    late = {
        "fairseq.checkpoint_utils",
        "fairseq.trainer",
        "fairseq.inference",
        "fairseq.preflight",
        "hydra",
        "soundfile",
    }
    assert late.isdisjoint(plain_import[1])


def test_dir_shows_what_is_for_users() -> None:
    import fairseq

    shown = set(dir(fairseq))
    assert {"transcribe", "checkpoint_utils", "metrics", "__version__"} <= shown
    assert {"Path", "warn_of_rivals", "installed", "public_names", "pretrained", "search"}.isdisjoint(shown)
    assert all(hasattr(fairseq, name) for name in shown)


def test_help_shows_transcribe() -> None:
    text = fresh("import fairseq, pydoc; print(pydoc.render_doc(fairseq, renderer=pydoc.plaintext))")
    assert "transcribe(model" in text and "class Path" not in text


@pytest.mark.parametrize(
    ("statement", "value", "same_as"),
    [
        ("import fairseq.metrics", "fairseq.metrics", "fairseq.logging.metrics"),
        ("from fairseq import metrics", "metrics", "fairseq.logging.metrics"),
        ("from fairseq.distributed_utils import get_rank", "get_rank", "fairseq.distributed.utils.get_rank"),
        ("from fairseq.progress_bar import progress_bar", "progress_bar", "fairseq.logging.progress_bar.progress_bar"),
        ("import fairseq.meters as m", "m", "fairseq.logging.meters"),
        (
            "from fairseq.modules.fairseq_dropout import FairseqDropout",
            "FairseqDropout",
            "fairseq.modules.FairseqDropout",
        ),
        (
            "from fairseq.models.wav2vec.wav2vec2 import pad_to_multiple",
            "pad_to_multiple",
            "fairseq.models.wav2vec.utils.pad_to_multiple",
        ),
        (
            "from fairseq.models.wav2vec import make_conv_pos",
            "make_conv_pos",
            "fairseq.models.wav2vec.wav2vec2.make_conv_pos",
        ),
        ("from fairseq.distributed.utils import call_main", "call_main", "fairseq.distributed.launch.call_main"),
    ],
)
def test_import_statements_of_fairseq(statement: str, value: str, same_as: str) -> None:
    import fairseq.distributed.launch
    import fairseq.distributed.utils
    import fairseq.logging.progress_bar

    space: dict[str, object] = {"fairseq": fairseq}
    exec(statement, space)
    assert eval(value, space) is eval(same_as, {"fairseq": fairseq})


def resolves(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:
        return False


def test_every_public_name_resolves_or_says_what_to_use() -> None:
    missing = [name for name in NAMES if not resolves(name)]
    unexplained = [
        name
        for name in missing
        if not_offered.sentence(name) is None and not_offered.sentence(name.rpartition(".")[0]) is None
    ]
    assert [name for name in unexplained if not name.endswith(".logger")] == []
    assert len(NAMES) - len(missing) >= LEAST_RESOLVED


@pytest.mark.parametrize("name", MODULES)
def test_every_module_of_fairseq_imports_or_says_what_to_use(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        said = str(error)
        assert (
            " is not offered " in said and ": " in said and said.endswith(".") and name.startswith(said.split(" ")[0])
        ), said


def test_the_tables_do_not_hide_what_is_here() -> None:
    """An entry for a name that the module defines would never be read; one whose home lacks it would be an error at
    first use.
    """
    for name in not_offered.ADVICE:
        module, _, attribute = name.rpartition(".")
        if module not in not_offered.EMPTY_MODULES:
            assert attribute not in vars(importlib.import_module(module)), name
    for name, (home, attribute) in elsewhere.NAMES.items():
        assert hasattr(importlib.import_module(home), attribute), name
        assert name not in not_offered.ADVICE


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        (
            "from fairseq.options import get_generation_parser",
            "get_generation_parser is not offered here: use fairseq-infer",
        ),
        # a plain module, no package
        ("from fairseq.utils import replace_unk", "fairseq.utils.replace_unk is not offered here: "),
        ("from fairseq.data import ResamplingDataset", "fairseq.data.ResamplingDataset is not offered here: "),
        ("from fairseq.data import encoders", "fairseq.data.encoders is not offered here: "),
        ("import fairseq.models.multires_hubert", "fairseq.models.multires_hubert is not offered here: "),
        (
            "from fairseq.data import HubertDataset",
            "fairseq.data.HubertDataset is not offered here: HuBERT is not pre-",
        ),
        (
            "from fairseq.models.wav2vec import Wav2Vec2Seq2SeqModel",
            "Wav2Vec2Seq2SeqModel is not offered here: fine-tune wav2vec_ctc",
        ),
    ],
)
def test_imports_of_what_is_not_offered(statement: str, says: str) -> None:
    with pytest.raises(ImportError) as caught:
        exec(statement)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_attributes_that_are_not_offered() -> None:
    import fairseq
    from fairseq import options

    with pytest.raises(
        AttributeError, match=r"fairseq.options.get_training_parser is not offered here: use fairseq-hydra-train\."
    ):
        _ = options.get_training_parser
    with pytest.raises(AttributeError, match="fairseq.data.encoders is not offered here"):
        _ = fairseq.data.encoders
    assert not hasattr(fairseq.tasks, "multires_hubert_pretraining") and not hasattr(fairseq.search, "BeamSearch")


def test_names_that_fairseq_never_had_fail_as_usual() -> None:
    import fairseq

    with pytest.raises(ImportError, match="cannot import name 'nothing_of_the_kind' from 'fairseq.utils'"):
        exec("from fairseq.utils import nothing_of_the_kind")
    with pytest.raises(ModuleNotFoundError, match="No module named 'fairseq.nothing_of_the_kind'"):
        exec("import fairseq.nothing_of_the_kind")
    with pytest.raises(AttributeError, match="module 'fairseq' has no attribute 'nothing_of_the_kind'"):
        _ = fairseq.nothing_of_the_kind
    assert not hasattr(fairseq, "not.an.identifier") and not hasattr(fairseq.models, "__wrapped__")
