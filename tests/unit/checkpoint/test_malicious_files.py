"""Files that try to run something when they are opened: refused in every place that opens a checkpoint, and nothing
has happened.
"""

from __future__ import annotations

import codecs
import collections
import contextlib
import functools
import io as std_io
import json
import os
import pathlib
import pickle
import types
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from omegaconf import OmegaConf

import fairseq
from fairseq import checkpoint_utils
from fairseq.checkpoint import io, sharded
from fairseq.checkpoint.record import RunRecord
from fairseq.conversion import adapters, torchaudio_model
from fairseq.conversion import convert as conversion
from fairseq.dataclass.configs import CheckpointConfig
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig, Wav2VecCtc
from fairseq_cli import average_checkpoints, consolidate, convert, doctor, extract, infer, transcribe, validate

MODEL = {"_name": "wav2vec2", "encoder_layers": 1, "encoder_embed_dim": 16}


class Call:
    """Pickled as a call of a function, perhaps with a state for what it gives."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


def payloads(trace: pathlib.Path) -> dict[str, Any]:
    """Ways to make `trace` appear, or to reach a function that would."""
    shell, python = f"touch {trace}", f"open({str(trace)!r}, 'w')"
    inner = std_io.BytesIO()
    torch.save(Call(os.system, shell), inner, _use_new_zipfile_serialization=False)
    config = OmegaConf.create({"a": 1})
    config.__dict__["_content"] = {"a": Call(os.system, shell)}
    return {
        "os.system": Call(os.system, shell),
        "eval": Call(eval, python),
        "exec": Call(exec, python),
        "getattr": Call(getattr, Call(__import__, "os"), "system"),
        "__import__": Call(__import__, "os"),
        "open": Call(open, str(trace), "w"),
        "torch.load": Call(torch.load, inner, weights_only_of_old()),
        "torch.storage": Call(torch.storage._load_from_bytes, inner.getvalue()),
        "pickle.loads": Call(pickle.loads, pickle.dumps(Call(os.system, shell))),
        "codecs": Call(codecs.decode, b"\x80", "unicode_escape"),
        "codecs.encode": Call(codecs.encode, "x", "rot13"),
        "pathlib": pathlib.PurePosixPath("/etc/passwd"),
        "partial": functools.partial(os.system, shell),
        "numpy of objects": np.array([Call(os.system, shell)], dtype=object),
        "numpy by file": Call(np.load, str(trace), None, True),
        "state of a class": Call(types.SimpleNamespace, state={"a": Call(os.system, shell)}),
        "inside omegaconf": config,
        "inside a namespace": Namespace(w2v_args=Namespace(a=Call(os.system, shell))),
        "inside an ordered dict": collections.OrderedDict(a=Call(os.system, shell)),
        "factory": Call(collections.defaultdict, Call(getattr, Call(__import__, "os"), "system")),
        "dictionary's method": Call(getattr, Call(__import__, "fairseq.data.data_utils"), "x"),
    }


def weights_only_of_old() -> None:
    return None


PLACES = {
    "model": lambda value: {"model": {"weight": value}},
    "cfg": lambda value: {"cfg": {"model": {**MODEL, "dropout": value}}},
    "args": lambda value: {"cfg": None, "args": Namespace(arch="wav2vec2", task="audio_pretraining", dropout=value)},
    "optimizer": lambda value: {"last_optimizer_state": {"state": {0: {"step": value}}, "param_groups": []}},
    "task_state": lambda value: {"task_state": {"target_dictionary": value}},
    "label dictionaries": lambda value: {
        "cfg": {"model": {"_name": "hubert"}, "task": {"_name": "hubert_pretraining"}},
        "task_state": {"dictionaries": [None, value]},
    },
    "encoder's config": lambda value: {"cfg": {"model": {"_name": "hubert_ctc", "w2v_args": {"model": {"a": value}}}}},
    "teacher": lambda value: {"cfg": {"model": {"_name": "data2vec_audio"}}, "model": {"_ema": {"layers": value}}},
    "adapters by language": lambda value: {"adapter": {"eng": {"model": {"W_a": value}}}},
    "extra_state": lambda value: {"extra_state": {"train_iterator": value}},
}
PAYLOADS = list(payloads(pathlib.Path("trace")))


def write(path: pathlib.Path, place: str, payload: str, as_zip: bool, trace: pathlib.Path) -> str:
    state = {
        "args": None,
        "cfg": {"model": MODEL},
        "model": {},
        "optimizer_history": [{"num_updates": 1}],
        "extra_state": {"ema": {}},
    }
    torch.save({**state, **PLACES[place](payloads(trace)[payload])}, path, _use_new_zipfile_serialization=as_zip)
    return str(path)


def test_these_files_do_run_where_nobody_looks(tmp_path):
    """Else the tests below would prove nothing."""
    for as_zip in (True, False):
        trace = tmp_path / f"trace{as_zip}"
        path = write(tmp_path / "file.pt", "model", "os.system", as_zip, trace)
        torch.load(path, weights_only=False)
        assert trace.exists()


# One reader for each format opens whatever is opened. It refuses by what a pickle names, wherever in the file that is: so
# every payload in one place, and one payload in every place.
@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "stream"])
@pytest.mark.parametrize(
    ("payload", "place"),
    [(payload, "model") for payload in PAYLOADS] + [("os.system", place) for place in PLACES if place != "model"],
)
def test_every_payload_and_every_place(tmp_path, payload, place, as_zip):
    trace = tmp_path / "trace"
    path = write(tmp_path / "file.pt", place, payload, as_zip, trace)
    with pytest.raises(ValueError, match=r"file\.pt was not loaded: it holds"):
        io.load(path)
    assert sorted(os.listdir(tmp_path)) == ["file.pt"]


class Trainer:
    """What `load_checkpoint` needs up to the moment when the file is read."""

    is_data_parallel_master = True
    strategy = types.SimpleNamespace(holds_all=True)

    def __init__(self) -> None:
        self.run_record = RunRecord()

    def get_train_iterator(self, **kwargs: Any) -> None:
        raise AssertionError("the file was opened")


def run_of(path: str, **settings: Any) -> None:
    folder = os.path.dirname(path)
    cfg = OmegaConf.structured(CheckpointConfig(save_dir=os.path.join(folder, "run")))
    checkpoint_utils.load_checkpoint(OmegaConf.merge(cfg, settings), Trainer())


def own_last(path: str) -> None:
    os.makedirs(os.path.join(os.path.dirname(path), "run"))
    os.rename(path, os.path.join(os.path.dirname(path), "run", "checkpoint_last" + os.path.splitext(path)[1]))
    run_of(path)


def other_than_last(path: str) -> None:
    """The last one is damaged, and the run looks at the others."""
    folder = os.path.join(os.path.dirname(path), "run")
    os.makedirs(folder)
    os.rename(path, os.path.join(folder, "checkpoint_1_1" + os.path.splitext(path)[1]))
    pathlib.Path(folder, "checkpoint_last.pt").write_bytes(b"PK\x03\x04")
    run_of(path)


def command(main: Callable[[list[str]], int], *arguments: str) -> Callable[[str], None]:
    """A command that ends with a line on what is wrong."""

    def run(path: str) -> None:
        said = std_io.StringIO()
        with contextlib.redirect_stderr(said):
            status = main([argument.format(path=path) for argument in arguments])
        if status != 0:
            raise ValueError(said.getvalue())

    return run


def inside_folder(path: str, description: str, content: dict[str, Any], name: str) -> str:
    """The file as the weights of another tool's folder."""
    folder = os.path.join(os.path.dirname(path), "folder")
    os.makedirs(folder)
    pathlib.Path(folder, description).write_text(json.dumps(content))
    os.rename(path, os.path.join(folder, name))
    return folder


def of_transformers(path: str) -> str:
    fields = {"feat_extract_norm": "group", "do_stable_layer_norm": False, "hidden_act": "gelu"}
    layers = {"conv_dim": [8], "conv_kernel": [10], "conv_stride": [5]}
    return inside_folder(path, "config.json", {"model_type": "wav2vec2", **fields, **layers}, "pytorch_model.bin")


def adapters_of_transformers(path: str) -> None:
    """The file as a language's adapters, next to harmless weights."""
    folder = of_transformers(path)
    os.rename(os.path.join(folder, "pytorch_model.bin"), os.path.join(folder, "adapter.fra.bin"))
    torch.save({"lm_head.weight": torch.zeros(1)}, os.path.join(folder, "pytorch_model.bin"))
    conversion.convert(folder, path + ".out", "fairseq", language="fra")


def adapter_beside(path: str) -> None:
    """The file as what --adapter names."""
    os.rename(path, path + ".bin")
    adapters.opened(path + ".bin", path, None, io.read)


def of_torchaudio(path: str) -> str:
    arguments = dict.fromkeys(torchaudio_model._SAME.values(), 8)
    arguments |= {"extractor_mode": "group_norm", "extractor_conv_layer_config": [[8, 10, 5]]}
    return inside_folder(path, "wav2vec2_model.json", {"arguments": arguments}, "model.pt")


def fine_tuned_from(path: str) -> None:
    task = types.SimpleNamespace(target_dictionary=["<s>"] * 5)
    Wav2VecCtc.build_model(OmegaConf.structured(Wav2Vec2CtcConfig(w2v_path=path)), task)


def extracted_with(path: str) -> None:
    folder = os.path.dirname(path)
    pathlib.Path(folder, "train.tsv").write_text(f"{folder}\na.wav\t16000\n")
    command(extract.cli_main, folder, "--path", "{path}", "--output-dir", "{path}.out")(path)


ENTRY_POINTS: dict[str, Callable[[str], Any]] = {
    "io.peek": io.peek,
    "load_checkpoint_to_cpu": checkpoint_utils.load_checkpoint_to_cpu,
    "load_model_ensemble": lambda path: checkpoint_utils.load_model_ensemble([path]),
    "load_model_ensemble_and_task": lambda path: checkpoint_utils.load_model_ensemble_and_task([path]),
    "load_ema_from_checkpoint": checkpoint_utils.load_ema_from_checkpoint,
    "save_ema_as_checkpoint": lambda path: checkpoint_utils.save_ema_as_checkpoint(path, path + ".ema"),
    "restore_file": lambda path: run_of(path, restore_file=path),
    "finetune_from_model": lambda path: run_of(path, finetune_from_model=path),
    "continue_once": lambda path: run_of(path, continue_once=path),
    "checkpoint_last.pt": own_last,
    "another checkpoint of the run": other_than_last,
    "w2v_path": fine_tuned_from,
    "w2v_path, a folder of transformers": lambda path: fine_tuned_from(of_transformers(path)),
    "w2v_path, a folder of torchaudio": lambda path: fine_tuned_from(of_torchaudio(path)),
    "fairseq-convert": command(convert.cli_main, "{path}", "{path}.out", "--to", "fairseq"),
    "fairseq-convert, a folder": lambda path: conversion.convert(of_transformers(path), path + ".out", "fairseq"),
    "fairseq-convert, a folder's adapters": adapters_of_transformers,
    "--adapter, a file in the folder": adapter_beside,
    "fairseq-average-checkpoints": command(
        average_checkpoints.cli_main, "--inputs", "{path}", "--output", "{path}.out"
    ),
    "fairseq-infer": command(infer.cli_main, "{path}.data", "--path", "{path}"),
    "fairseq-transcribe": command(transcribe.cli_main, "{path}.wav", "--path", "{path}"),
    "fairseq-extract": extracted_with,
    "fairseq.transcribe": lambda path: fairseq.transcribe(path, torch.zeros(16000)),
    "fairseq_cli.validate": command(validate.cli_main, "--path", "{path}"),
}


# in a part that only a resumed run reads, and in one that all of them read
@pytest.mark.parametrize(("as_zip", "place"), [(True, "optimizer"), (False, "cfg")], ids=["zip", "stream"])
@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_every_entry_point(tmp_path, entry, place, as_zip):
    trace = tmp_path / "trace"
    path = write(tmp_path / "file.pt", place, "os.system", as_zip, trace)
    with pytest.raises(ValueError, match="not loaded: it holds pickled objects of posix.system|only damaged"):
        ENTRY_POINTS[entry](path)
    assert not trace.exists()
    assert not os.path.exists(path + ".ema") and not os.path.exists(path + ".out")


def test_the_doctor_does_without_such_a_config(tmp_path, capsys):
    trace = tmp_path / "trace"
    write(tmp_path / "checkpoint_last.pt", "cfg", "os.system", True, trace)
    (tmp_path / "metrics.jsonl").write_text('{"split": "train_inner", "num_updates": 20, "epoch": 1, "loss": 6.5}\n')
    assert doctor.cli_main([str(tmp_path)]) == 0
    assert "not loaded: it holds pickled objects of posix.system" in capsys.readouterr().err
    assert not trace.exists()


# -- sharded checkpoints -----------------------------------------------------------------------------------------------


FOLDER_PLACES = {
    "the metadata": (".metadata", lambda metadata, value: setattr(metadata, "planner_data", value)),
    "a tensor's size": (
        ".metadata",
        lambda metadata, value: setattr(metadata.state_dict_metadata["model/weight"], "size", value),
    ),
    "the record": ("record.pt", lambda record, value: record["state"].update(cfg=value)),
}


def write_folder(path: pathlib.Path, place: str, value: Any) -> str:
    """A sharded checkpoint with a value in one of its pickles, and with right checksums."""
    state = {"cfg": {"model": MODEL}, "model": {"weight": torch.ones(4)}, "optimizer_history": [{"num_updates": 1}]}
    sharded.save({**state, "extra_state": {"ema": {}}}, str(path))
    file, change = FOLDER_PLACES[place]
    if file == ".metadata":
        content = pickle.loads((path / file).read_bytes())
        change(content, value)
        (path / file).write_bytes(pickle.dumps(content))
    else:
        content = torch.load(path / file, weights_only=True)
        change(content, value)
        torch.save(content, path / file)
    return write_checksums(path)


def with_bytes(path: pathlib.Path, trace: pathlib.Path) -> str:
    """A sharded checkpoint that torch's own reader would unpickle."""
    write_folder(path, "the metadata", None)
    dcp.save({"model/weight": Call(os.system, f"touch {trace}")}, checkpoint_id=path, no_dist=True)
    metadata = pickle.loads((path / ".metadata").read_bytes())
    metadata.storage_meta = None  # it has a pathlib.Path, which alone would be refused
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    return write_checksums(path)


def write_checksums(path: pathlib.Path) -> str:
    checksums = {name: sharded._checksum(str(path / name)) for name in os.listdir(path) if name != "checksums.json"}
    (path / "checksums.json").write_text(json.dumps(checksums))
    return str(path)


@pytest.mark.filterwarnings("ignore")
def test_torch_runs_what_such_a_folder_holds(tmp_path):
    def with_a_call(path, trace):
        return write_folder(path, "the metadata", Call(os.system, f"touch {trace}"))

    for make, wanted in ((with_a_call, torch.zeros(4)), (with_bytes, None)):
        trace = tmp_path / make.__name__
        path = make(tmp_path / f"{make.__name__}.shards", trace)
        dcp.load({"model/weight": wanted}, checkpoint_id=path, no_dist=True)
        assert trace.exists()


@pytest.mark.parametrize("place", FOLDER_PLACES)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_every_payload_in_a_folder(tmp_path, payload, place):
    trace = tmp_path / "trace"
    path = write_folder(tmp_path / "checkpoint.shards", place, payloads(trace)[payload])
    for read in (io.load, io.peek):
        with pytest.raises(ValueError, match=r"checkpoint\.shards was not loaded: it holds"):
            read(path)
    assert "it holds" in io.verify(path)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint.shards"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("entry", [name for name in ENTRY_POINTS if "folder" not in name] + ["fairseq-consolidate"])
def test_every_entry_point_refuses_such_a_folder(tmp_path, entry):
    trace = tmp_path / "trace"
    path = with_bytes(tmp_path / "file.shards", trace)
    entries = {**ENTRY_POINTS, "fairseq-consolidate": command(consolidate.cli_main, "{path}", "{path}.out")}
    with pytest.raises(
        ValueError, match="not loaded: it holds an entry 'model/weight' that is not a tensor|only damaged"
    ):
        entries[entry](path)
    assert not trace.exists()
    assert not os.path.exists(path + ".ema") and not os.path.exists(path + ".out")


@pytest.mark.parametrize(
    "text", ["${oc.env:HOME}", "a ${oc.decode:x} b", "${task.${oc.env:USER}}", "${hydra:runtime.cwd}", "${env:PATH}"]
)
@pytest.mark.parametrize("where", ["cfg", "w2v_args", "args", "omegaconf"])
def test_config_values_are_never_computed(tmp_path, text, where):
    args = Namespace(arch="wav2vec2", task="audio_pretraining", data=text)
    contents = {
        "cfg": {"cfg": {"task": {"_name": "audio_pretraining", "data": text}, "model": MODEL}},
        "w2v_args": {
            "cfg": {"model": {"_name": "wav2vec_ctc", "w2v_args": {"model": {**MODEL, "activation_fn": text}}}}
        },
        "args": {"args": args},
        "omegaconf": {"cfg": OmegaConf.create({"model": {**MODEL, "list": [{"a": text}], "_name": "unknown_model"}})},
    }
    path = tmp_path / "file.pt"
    torch.save({"model": {}, **contents[where]}, path)
    for entry in (io.load, checkpoint_utils.load_checkpoint_to_cpu):
        with pytest.raises(ValueError, match=r"file\.pt was not loaded: its (cfg|args).*would be computed"):
            entry(str(path))


def test_references_to_other_keys_stay(tmp_path):
    optimizer = {"_name": "adam", "lr": "${optimization.lr}"}
    cfg = {"model": MODEL, "optimizer": optimizer, "optimization": {"lr": [0.5]}, "hydra": {"a": "${now:%Y}"}}
    torch.save({"model": {}, "cfg": cfg}, tmp_path / "file.pt")
    assert checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "file.pt"))["cfg"].optimizer.lr == [0.5]
