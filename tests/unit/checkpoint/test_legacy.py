"""The restricted reader: what it makes of the forms that torch and fairseq wrote, and what it refuses."""

from __future__ import annotations

import collections
import io as byte_io
import os
import pickle
import struct
import zipfile
from argparse import Namespace

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from fairseq.checkpoint import allowed, legacy
from fairseq.checkpoint.allowed import Refused
from fairseq.checkpoint.unpickle import unpickle

FORMS = pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "stream"])


def saved(tmp_path, value, as_zip=True):
    path = tmp_path / "file.pt"
    torch.save(value, path, _use_new_zipfile_serialization=as_zip)
    return path


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@FORMS
def test_data_comes_back_as_it_was(tmp_path, as_zip):
    base = torch.arange(24, dtype=torch.float32).view(4, 6)
    kinds = [
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    ]
    value = {
        "views": [base, base[1:3, ::2], base.t(), base[2, 3]],
        "kinds": [torch.arange(5).to(kind) for kind in kinds],
        "empty": torch.zeros(0, 3),
        "plain": {
            "a": None,
            1: True,
            2.5: "text ä",
            "big": 2**70,
            "bytes": b"\x00\xff",
            "tuple": (1, (2, [3]), ()),
            -3: -1,
        },
        "ordered": collections.OrderedDict(b=1, a=2),
        "sets": [{1, 2}, frozenset({3})],
    }
    read = legacy.read(saved(tmp_path, value, as_zip))
    assert same(read, value)
    assert read["views"][0].data_ptr() == read["views"][2].data_ptr()  # tensors that shared their memory still do


@FORMS
def test_parameters_buffers_and_numpy_numbers(tmp_path, as_zip):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    numbers = [np.float64(1.5), np.int64(-7), np.float32(0.25), np.bool_(True)]
    value = {"model": module.state_dict(), "parameter": module[0].weight, "numbers": numbers}
    read = legacy.read(saved(tmp_path, value, as_zip))
    assert read["numbers"] == [1.5, -7, 0.25, True] and all(type(n) in (int, float, bool) for n in read["numbers"])
    assert same(read["model"], collections.OrderedDict(module.state_dict()))
    assert torch.equal(read["parameter"], module[0].weight) and not read["parameter"].requires_grad


@FORMS
def test_stand_ins_become_plain(tmp_path, as_zip):
    model = {"_name": "wav2vec2", "dim": 4, "lr": "${optimization.lr}"}
    cfg = OmegaConf.create({"model": model, "optimization": {"lr": [0.1]}, "missing": "???"})
    args = Namespace(a=1, w2v_args=Namespace(b=[2]))
    value = {"cfg": cfg, "part": cfg.model, "args": args, "default": collections.defaultdict(list, a=[1])}
    read = legacy.read(saved(tmp_path, value, as_zip))
    assert read["cfg"] == OmegaConf.to_container(cfg) and not isinstance(read["cfg"], DictConfig)
    assert read["part"] == {"_name": "wav2vec2", "dim": 4, "lr": "${optimization.lr}"}
    assert read["args"] == value["args"] and read["args"].w2v_args.b == [2]
    assert read["default"] == {"a": [1]} and type(read["default"]) is dict


def test_every_pickle_protocol():
    value = {
        "a": [1, 2.5, None, True, "ä", b"x", (1, 2, 3, 4)],
        "b": {3, 4},
        "o": collections.OrderedDict(x=1),
        "l": -(2**40),
    }
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert same(unpickle(pickle.dumps(value, protocol)), value), protocol


def test_without_tensors_only_the_pickle_is_read(tmp_path):
    path = saved(tmp_path, {"weight": torch.ones(1000, 7), "n": 3})
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("file/data/0").header_offset
    with open(path, "r+b") as file:
        file.seek(start + 5000)
        file.write(b"damage")
    read = legacy.read(path, with_tensors=False)
    assert read["n"] == 3 and read["weight"].is_meta and read["weight"].shape == (1000, 7)
    with pytest.raises(zipfile.BadZipFile, match="CRC-32"):
        legacy.read(path)


# -- what is refused ---------------------------------------------------------------------------------------------------


class Calls:
    """Pickled as a call of any function."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Calls(os.getcwd), "posix.getcwd"),
        (Calls(eval, "1"), "builtins.eval"),
        (np.zeros(3), "multiarray._reconstruct"),
        (np.array([{}], dtype=object), "multiarray._reconstruct"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (Calls(dict, [(1, 2)]), "a call of builtins.dict"),
        (Calls(torch.FloatStorage), "a call of torch.FloatStorage"),
        (Calls(torch._utils._rebuild_tensor_v2, [1.0], 0, (1,), (1,), False, {}), "storage, sizes or strides"),
        (Calls(torch._utils._rebuild_parameter, 3, True, {}), "parameter that is not a tensor"),
    ],
)
@FORMS
def test_anything_else_is_refused_by_name(tmp_path, as_zip, value, named):
    with pytest.raises(Refused, match=named):
        legacy.read(saved(tmp_path, {"model": {"weight": value}}, as_zip))


def test_state_goes_to_stand_ins_only():
    """BUILD on a class or a function would write into this process: pickle's own way is setattr."""
    before = dict(vars(Namespace))
    for target in (b"cargparse\nNamespace\n", b"ccollections\nOrderedDict\n", b"c_codecs\nencode\n", b"]", b"K\x01"):
        with pytest.raises(Refused, match="a state for"):
            unpickle(b"\x80\x02" + target + b"N}X\x06\x00\x00\x00__eq__K\x01s\x86b.")
    assert dict(vars(Namespace)) == before
    odd = unpickle(b"\x80\x02cargparse\nNamespace\n)\x81}X\x09\x00\x00\x00__class__K\x01sb.")
    # kept as an entry of the instance's dict, where it shadows nothing
    assert allowed.plain(odd).__class__ is Namespace


def test_streams_that_are_no_pickle():
    for body in (b"", b"(.", b"a.", b"h\x05.", b"K\x01(s.", b"(i__main__\nX\n.", b"]](ee.", b"c.", b"\x82\x01."):
        with pytest.raises(Refused):
            unpickle(b"\x80\x02" + body)
    for stream in (b"", b"hello"):
        with pytest.raises(Refused):
            unpickle(stream)
    with pytest.raises(Refused, match="PERSID|other objects"):
        unpickle(b"\x80\x02K\x01Q.")
    inert = b"cargparse\nNamespace\n)\x81"
    odd_keys = (
        b"}" + inert + b"K\x01s.",
        b"}" + inert + b"\x85K\x01s.",
        b"\x8f(" + inert + b"\x90.",
        b"(" + inert + b"\x91.",
    )
    for body in (*odd_keys, b"ccollections\nOrderedDict\n](" + inert + b"K\x01\x86e\x85R."):
        with pytest.raises(Refused, match="a dict whose key"):
            unpickle(b"\x80\x02" + body)
    with pytest.raises(Refused):
        unpickle(b"\x80\x04\x8e" + b"\xff" * 7 + b"\x3f.")  # bytes of 2^62


def test_containers_without_end(tmp_path, monkeypatch):
    loop = []
    loop.append(loop)
    with pytest.raises(Refused, match="nested"):
        legacy.read(saved(tmp_path, {"a": loop}))
    bomb = []
    for _ in range(40):
        bomb = [bomb, bomb]
    monkeypatch.setattr(allowed._Plain, "MOST_VALUES", 10_000)
    with pytest.raises(Refused, match="containers of more than 10,000 values"):
        legacy.read(saved(tmp_path, {"a": bomb}))


def test_tensors_stay_within_their_storage():
    storage = allowed.Storage(torch.arange(6.0))
    build = allowed.look_up("torch._utils", "_rebuild_tensor_v2")
    assert torch.equal(build((storage, 1, (2, 2), (2, 1), False, {})), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    beyond = ((0, (7,), (1,)), (1, (2, 3), (3, 1)), (0, (2,), (-1,)), (-1, (1,), (1,)))
    for place in (*beyond, (0, (2,), (1, 1)), (0, (2.0,), (1,)), (0, 5, 1), (None, (1,), (1,))):
        with pytest.raises(Refused):
            build((storage, *place, False, {}))


def rewritten(path, change):
    """The archive with the records that `change` gives for its records' names and contents."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    method = change(records) or zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in records.items():
            archive.writestr(name, content)


def test_archives_that_contradict_themselves(tmp_path):
    def check(change, error, match):
        path = saved(tmp_path, {"weight": torch.ones(10)})
        rewritten(path, change)
        with pytest.raises(error, match=match):
            legacy.read(path)

    check(lambda records: records.update({"file/data/0": b"1234"}), Refused, "another size")
    check(lambda records: zipfile.ZIP_DEFLATED, Refused, "compressed")
    check(lambda records: records.pop("file/data/0") and None, zipfile.BadZipFile, "missing")
    check(lambda records: records.update({"other/data.pkl": b"N."}), Refused, "without one data.pkl")
    check(lambda records: records.update({"file/byteorder": b"big"}), Refused, "byte order")
    check(lambda records: records.update({"file/constants.pkl": b"N."}), Refused, "TorchScript")


def test_streams_that_contradict_themselves(tmp_path):
    path = saved(tmp_path, {"weight": torch.arange(10.0)}, as_zip=False)
    sound = path.read_bytes()
    assert legacy.read(path)["weight"].tolist() == list(range(10))
    for content, error in (
        (sound[:-3], EOFError),
        (sound[:-45], EOFError),
        (sound.replace(struct.pack("<q", 10), struct.pack("<q", 11)), Refused),
        (sound.replace(b"K\x0aN", b"J\xff\xff\xff\x7fN"), (EOFError, Refused)),  # 2^31 numbers in a file of 500 bytes
        (pickle.dumps(legacy.MAGIC_NUMBER, 2) + pickle.dumps(999, 2), Refused),
        (b"no checkpoint at all", Refused),
    ):
        assert content != sound
        path.write_bytes(content)
        with pytest.raises(error):
            legacy.read(path)


def test_tar_archives_are_refused(tmp_path):
    import tarfile

    path = tmp_path / "old.pt"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), byte_io.BytesIO())
    with pytest.raises(Refused, match="tar archive"):
        legacy.read(path)
