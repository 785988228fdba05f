"""fairseq-extract: layers numbered as fairseq's, times of frames, files, going on after an interruption."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from fairseq.checkpoint import io
from fairseq.inference import extraction, feature_files
from fairseq.inference.features import check_feature, extract, extract_source
from fairseq.inference.model import SpeechModel
from fairseq.inference.windows import WindowSettings
from fairseq_cli import extract as command
from fairseq_cli import infer, transcribe
from tests.small_speech import SYMBOLS, speech, write_checkpoint


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> SpeechModel:
    path = write_checkpoint(tmp_path_factory.mktemp("m") / "model.pt", fine_tuned=False, layer_norm_first=True)
    return SpeechModel.load(path, precision="fp32")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number, seconds in enumerate([0.5, 1.2, 0.9]):
        (tmp_path / "audio").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "audio" / f"{number}.wav", speech(seconds, seed=number), 16000, subtype="FLOAT")
    lines = [str(tmp_path), *(f"audio/{number}.wav\t{round(s * 16000)}" for number, s in enumerate([0.5, 1.2, 0.9]))]
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def run(data: Path, checkpoint: Path, *extra: str) -> dict[str, Any]:
    arguments = [str(data), "--path", str(checkpoint), "--output-dir", str(data / "out"), *extra]
    return command.main(command.get_parser().parse_args(arguments))._asdict()


def test_layers_are_numbered_as_fairseq_does(pretrained: SpeechModel) -> None:
    wave = speech(0.8)
    source, encoder = torch.from_numpy(wave)[None], pretrained.encoder
    (found,) = extract(pretrained, [wave], ["0", "1", "context", "extractor", "projected", "quantized", "codes"])
    with torch.no_grad():
        for layer in (0, 1):
            expected = encoder.extract_features(source, None, layer=layer)["x"][0]
            assert np.array_equal(found[str(layer)], expected.numpy())
        whole = encoder(source, mask=False, features_only=True)
        # final norm
        assert np.array_equal(found["context"], whole["x"][0].numpy()) and not np.array_equal(
            found["1"], found["context"]
        )
        assert np.array_equal(found["extractor"], whole["features"][0].numpy())
        assert np.array_equal(found["projected"], encoder.post_extract_proj(whole["features"])[0].numpy())
        quantized, codes = encoder.quantize(source)
    assert np.array_equal(found["quantized"], quantized[0].numpy()) and np.array_equal(found["codes"], codes[0].numpy())
    assert found["codes"].dtype == np.int64 and found["0"].shape == (pretrained.num_frames(12800), 24)
    assert np.array_equal(extract(pretrained, [wave], ["0"])[0]["0"], found["0"])


def test_a_padded_batch_gives_what_single_files_give(pretrained: SpeechModel) -> None:
    waves, names = [speech(1.0, 1), speech(0.4, 2)], ["0", "context", "extractor", "quantized", "codes"]
    for wave, together in zip(waves, extract(pretrained, waves, names), strict=True):
        alone = extract(pretrained, [wave], names)[0]
        for name in names:
            assert together[name].shape == alone[name].shape and np.abs(together[name] - alone[name]).max() < 1e-5, name


def test_windows_keep_every_frame_once(pretrained: SpeechModel) -> None:
    source = pretrained.open(speech(3.0))
    found = extract_source(pretrained, source, ["codes", "0"], WindowSettings(1.0, 0.4))
    assert len(found["codes"]) == len(found["0"]) == pretrained.num_frames(48000)


def test_unknown_features_are_named(pretrained: SpeechModel, model: SpeechModel) -> None:
    for feature, message in (("2", "2 blocks, 0 to 1"), ("last", "is not known")):
        with pytest.raises(ValueError, match=message):
            check_feature(pretrained, feature)
    with pytest.raises(ValueError, match="needs a quantizer"):
        check_feature(model, "codes")
    assert check_feature(model, "1") == "1"


def test_npy_files_and_times(data: Path, pretrained_checkpoint: Path) -> None:
    result = run(data, pretrained_checkpoint, "--feature", "1")
    assert (result["files"], result["written"], result["errors"]) == (3, 3, {})
    features, seconds = np.load(data / "out" / "audio" / "1.npy"), np.load(data / "out" / "audio" / "1.seconds.npy")
    assert features.shape == (59, 24) and features.dtype == np.float32
    assert np.allclose(seconds * 16000, 320 * np.arange(59) + 199.5)


def test_it_goes_on_where_it_stopped(data: Path, pretrained_checkpoint: Path) -> None:
    run(data, pretrained_checkpoint)
    written = data / "out" / "audio" / "0.npy"
    before = written.stat().st_mtime_ns
    (data / "out" / "audio" / "2.npy").unlink()
    result = run(data, pretrained_checkpoint)
    assert (result["done_before"], result["written"]) == (2, 1)
    assert written.stat().st_mtime_ns == before and (data / "out" / "audio" / "2.npy").exists()
    assert not list((data / "out").rglob("*.part"))


def test_other_features_do_not_pass_for_those_that_are_there(
    data: Path, pretrained_checkpoint: Path, checkpoint: Path
) -> None:
    with pytest.raises(ValueError, match="block 7 does not exist"):
        run(data, pretrained_checkpoint, "--feature", "7")
    run(data, pretrained_checkpoint, "--feature", "0")
    with pytest.raises(ValueError, match=r"other settings \(feature \['0'\], now \['1'\]\)"):
        run(data, pretrained_checkpoint, "--feature", "1")
    with pytest.raises(ValueError, match=r"other settings \(checkpoint "):
        run(data, checkpoint, "--feature", "0")


def test_features_of_another_root_or_precision_are_not_its_own(data: Path, pretrained_checkpoint: Path) -> None:
    (data / "elsewhere" / "audio").mkdir(parents=True)
    soundfile.write(data / "elsewhere" / "audio" / "0.wav", speech(0.7, seed=9), 16000, subtype="FLOAT")
    (data / "other.tsv").write_text(f"{data / 'elsewhere'}\naudio/0.wav\t11200\n")
    (data / "more.tsv").write_text(f"{data}\naudio/2.wav\t14400\naudio/new.wav\t11200\n")
    soundfile.write(data / "audio" / "new.wav", speech(0.7, seed=9), 16000, subtype="FLOAT")
    run(data, pretrained_checkpoint)
    with pytest.raises(
        ValueError, match=r"other settings \(root .*elsewhere'\): choose another --output-dir.* has only moved, write"
    ):
        run(data, pretrained_checkpoint, "--gen-subset", "other")
    with pytest.raises(ValueError, match=r"other settings \(precision 'fp32', now 'bf16'\)"):
        run(data, pretrained_checkpoint, "--precision", "bf16")
    result = run(data, pretrained_checkpoint, "--gen-subset", "more")  # another manifest of the same files
    assert (result["done_before"], result["written"]) == (1, 1)


def test_a_damaged_note_is_named_and_none_is_left_half_written(
    data: Path, pretrained_checkpoint: Path, monkeypatch: Any
) -> None:
    note = data / "out" / "extract.json"
    with monkeypatch.context() as patched, pytest.raises(OSError, match="killed"):
        patched.setattr(feature_files.os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("killed")))
        run(data, pretrained_checkpoint)
    assert not note.exists()
    for text in ('{"feature": ["con', "[1]"):
        note.write_text(text)
        with pytest.raises(ValueError, match=r"extract\.json, which has .* remove the folder"):
            run(data, pretrained_checkpoint)


def test_one_feature_may_be_asked_for_in_several_ways(data: Path, pretrained_checkpoint: Path) -> None:
    run(data, pretrained_checkpoint, "--feature", "00", "--feature", "0")
    assert np.load(data / "out" / "audio" / "0.npy").shape == (24, 24)
    assert run(data, pretrained_checkpoint, "--feature", "0")["done_before"] == 3


def test_a_checkpoint_without_a_dictionary_takes_that_of_the_data_or_of_dict(data: Path, checkpoint: Path) -> None:
    state = io.load(checkpoint)
    state["task_state"], state["cfg"]["task"]["data"] = {}, "/gone"
    torch.save(state, data / "old.pt")
    with pytest.raises(
        ValueError,
        match=r"old\.pt is fine-tuned but holds no dictionary, and .*dict\.ltr\.txt does not exist.* --dict FILE",
    ):
        run(data, data / "old.pt")
    (data / "dict.ltr.txt").write_text("A 1\nB 1\n")
    with pytest.raises(
        ValueError, match=r"old\.pt has an output layer of 10 rows, but the dictionary .*dict\.ltr\.txt has 6 symbols"
    ):
        run(data, data / "old.pt")
    (data / "right.txt").write_text("".join(f"{symbol} 1\n" for symbol in SYMBOLS))
    assert run(data, data / "old.pt", "--dict", str(data / "right.txt"))["written"] == 3
    for parser in (infer.get_parser(), transcribe.get_parser()):
        assert parser.parse_args([str(data), "--path", "old.pt", "--dict", "right.txt"]).dict == "right.txt"
    own = SpeechModel.load(data / "old.pt", dictionary=str(data / "right.txt")).dictionary()
    assert list(own.symbols) == list(SpeechModel.load(checkpoint).dictionary().symbols)
    (data / "right.txt").rename(data / "dict.ltr.txt")
    assert run(data, data / "old.pt")["done_before"] == 3


def test_several_features_have_a_file_each(data: Path, pretrained_checkpoint: Path) -> None:
    run(data, pretrained_checkpoint, "--feature", "codes", "--feature", "0")
    names = sorted(path.name for path in (data / "out" / "audio").glob("0.*"))
    assert names == ["0.0.npy", "0.codes.npy", "0.seconds.npy"]
    assert run(data, pretrained_checkpoint, "--feature", "codes", "--feature", "0")["done_before"] == 3


def test_parquet(data: Path, pretrained_checkpoint: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    run(data, pretrained_checkpoint, "--feature", "codes", "--feature", "0")
    (data / "out" / "extract.json").unlink()
    run(data, pretrained_checkpoint, "--feature", "codes", "--feature", "0", "--format", "parquet")
    table = pq.read_table(data / "out" / "audio" / "0.parquet")
    assert np.array_equal(np.array(table["codes"].to_pylist()), np.load(data / "out" / "audio" / "0.codes.npy"))
    assert np.array_equal(
        np.array(table["0"].to_pylist(), dtype=np.float32), np.load(data / "out" / "audio" / "0.0.npy")
    )
    assert table["seconds"][0].as_py() == 199.5 / 16000
    assert json.loads(table.schema.metadata[b"fairseq"])["file"] == "audio/0.wav"


@pytest.mark.slow
def test_processes_write_what_one_writes(data: Path, pretrained_checkpoint: Path) -> None:
    run(data, pretrained_checkpoint, "--feature", "1")
    alone = np.load(data / "out" / "audio" / "1.npy")
    (data / "out" / "audio" / "1.npy").unlink()
    (data / "out" / "audio" / "0.npy").unlink()
    result = run(data, pretrained_checkpoint, "--feature", "1", "--num-workers", "2")
    assert (result["done_before"], result["written"]) == (1, 2)
    assert np.allclose(np.load(data / "out" / "audio" / "1.npy"), alone, atol=1e-6)


def test_bad_files_are_reported_and_the_rest_goes_on(
    data: Path, pretrained_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "audio" / "0.wav").write_text("no audio")
    soundfile.write(data / "audio" / "2.wav", speech(0.02), 16000)
    arguments = [str(data), "--path", str(pretrained_checkpoint), "--output-dir", str(data / "out")]
    assert command.cli_main(arguments) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["written"] == 1 and set(result["errors"]) == {"audio/0.wav", "audio/2.wav"}
    assert "the audio has 320 samples" in result["errors"]["audio/2.wav"]


def test_two_files_of_one_name_are_refused(data: Path, pretrained_checkpoint: Path) -> None:
    (data / "train.tsv").write_text(f"{data}\naudio/0.wav\t8000\naudio/0.flac\t8000\n")
    with pytest.raises(ValueError, match=r"audio/0.wav and audio/0.flac .* would both be written"):
        run(data, pretrained_checkpoint)


def test_targets_stay_inside_the_folder(tmp_path: Path) -> None:
    assert feature_files.target(tmp_path, "../../a/b.flac", "npy") == tmp_path / "a" / "b.npy"
    assert feature_files.target(tmp_path, "/a/b.flac", "npy") == tmp_path / "a" / "b.npy"
    assert feature_files.target(tmp_path, "a.zip:12:34", "npy") == tmp_path / "a.zip:12:34.npy"
    with pytest.raises(ValueError, match="the format is 'csv'"):
        feature_files.check_kind("csv")


@pytest.mark.parametrize(
    ("names", "features", "message"),
    [
        (
            ["x.flac", "x.seconds.flac"],
            ["context"],
            r"x.flac and x.seconds.flac in .*would both be written to .*x.seconds.npy",
        ),
        (["x.8.flac", "x.flac"], ["8", "9"], None),  # x.8.8.npy, x.8.9.npy; x.8.npy, x.9.npy
        (["x.seconds.flac", "x.flac"], ["8", "9"], None),
        (["x.seconds.flac", "x.flac", "x.seconds.wav"], ["8", "9"], r"x.seconds.flac and x.seconds.wav"),
        (["a/x.flac", "b/x.flac", "x.flac"], ["8"], None),
        (["x.flac", "y.flac", "x.flac"], ["8"], "x.flac is listed twice in train.tsv"),
        (["x.flac", "x.npy/y.flac"], ["8"], r"x.flac and x.npy/y.flac .*need .*x.npy both as a file and as a folder"),
    ],
)
def test_no_file_is_written_for_two_recordings(
    tmp_path: Path, names: list[str], features: list[str], message: str | None
) -> None:
    if message is None:
        feature_files.check_outputs(tmp_path, names, features, "npy", "train.tsv")
        return
    with pytest.raises(ValueError, match=message):
        feature_files.check_outputs(tmp_path, names, features, "npy", "train.tsv")


def test_times_of_one_recording_are_not_the_features_of_another(data: Path, pretrained_checkpoint: Path) -> None:
    (data / "audio" / "0.seconds.wav").write_bytes((data / "audio" / "1.wav").read_bytes())
    (data / "train.tsv").write_text((data / "train.tsv").read_text() + "audio/0.seconds.wav\t19200\n")
    with pytest.raises(ValueError, match="audio/0.wav and audio/0.seconds.wav"):
        run(data, pretrained_checkpoint)
    assert not list((data / "out").rglob("*.npy"))


def test_a_second_run_into_the_folder_is_refused(data: Path, pretrained_checkpoint: Path) -> None:
    with (
        feature_files.locked(data / "out"),
        pytest.raises(ValueError, match=f"process {os.getpid()} on .* is writing features to .*out"),
    ):
        run(data, pretrained_checkpoint)
    assert run(data, pretrained_checkpoint)["written"] == 3  # the lock ends with its owner
    (data / "out" / "extract.lock").write_text("process 1 on a machine that was switched off")
    assert run(data, pretrained_checkpoint)["done_before"] == 3


@pytest.mark.process
def test_a_killed_process_is_an_error_and_not_a_hang(
    data: Path, pretrained_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "_start", _die)
    with pytest.raises(ValueError, match="one of the 2 workers .* was killed"):
        run(data, pretrained_checkpoint, "--num-workers", "2")


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_segments_have_files_of_their_own(data: Path, pretrained_checkpoint: Path) -> None:
    whole, rate = soundfile.read(data / "audio" / "1.wav", dtype="float32")
    soundfile.write(data / "part.wav", whole[3200:12800], rate, subtype="FLOAT")
    (data / "apart.tsv").write_text(f"{data}\npart.wav\t9600\n")
    rows = ["audio/1.wav\t9600\t3200", "audio/1.wav\t8000\t0", "audio/1.wav\t8000\t19199"]
    (data / "train.tsv").write_text("\n".join([str(data), *rows]) + "\n")
    found = run(data, pretrained_checkpoint)
    assert found["written"] == 2 and list(found["errors"]) == ["audio/1.wav:19199-27199"]
    assert "has 19,200 samples" in found["errors"]["audio/1.wav:19199-27199"]
    run(data, pretrained_checkpoint, "--gen-subset", "apart")
    part = np.load(data / "out" / "part.npy")
    assert np.array_equal(np.load(data / "out" / "audio" / "1.wav:3200-12800.npy"), part)
    assert (data / "out" / "audio" / "1.wav:0-8000.npy").exists()
