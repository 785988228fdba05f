"""Judges for cases about manifests and audio files."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from tests.drills.cases import Case, Ended, Finding, judges

SCRIPT = "examples/wav2vec/wav2vec_manifest.py"
# seconds beyond twice the time of a manifest that is refused at once: a wrong root must be reported by then
LIMIT = 20.0
# decoded to the end, libsndfile 1.2.2
MP3_FRAMES = {"00.mp3": 77184, "01.mp3": 69696, "02.mp3": 77184, "03.mp3": 66816}


def train(case: Case, data: Path, *more: str) -> Ended:
    config, keys = case.cases / "training/common", (f"task.data={data}", f"checkpoint.save_dir={data.name}")
    return case.run("fairseq-hydra-train", "--config-dir", config, "--config-name", "mini", *keys, *more)


def preflight(case: Case, data: Path) -> Ended:
    config = case.cases / "training/common"
    return case.run("fairseq-preflight", "--config-dir", config, "--config-name", "mini", f"task.data={data}")


def plain(text: str) -> str:
    """Remove the line breaks of preflight's paragraphs."""
    return " ".join(text.split())


def refused(ended: Ended, *words: str) -> bool:
    return ended.code not in (0, -9) and not ended.has_traceback and all(word in plain(ended.output) for word in words)


def trained(ended: Ended, utterances: int = 20) -> bool:
    return (
        ended.code == 0
        and f"loaded {utterances}, skipped 0" in ended.output
        and "cannot be decoded" not in ended.output
    )


def seen(ended: Ended) -> str:
    line = next(
        (line for line in reversed(ended.output.splitlines()) if ".tsv" in line and "Saved" not in line),
        ended.last_line,
    )
    return f"status {ended.code}, {ended.seconds:.0f} s: {line.strip()[-170:]}"


# -- training/manifests ------------------------------------------------------------------------------------------------


@judges("training/manifests")
def manifests(case: Case) -> Iterator[Finding]:
    shutil.copytree(case.cases / "training/common/base", case.work / "base")
    own = _own_manifests(case)
    at_once = train(case, case.folder / "utf16").seconds
    for name, words in {
        "noroot": ("train.tsv, line 1",),
        "noroot_abs": (".tsv, line 1",),
        "relroot_noslash": ("train.tsv, line 1", "tmp/casesA"),
        "onlyroot_valid": ("valid.tsv, line",),
        "utf16": ("train.tsv, line 1", "UTF-16"),
        **own,
    }.items():
        data = (case.work if name in own else case.folder) / name
        label = f"own: {name}" if name in own else name
        ended = train(case, data, "optimization.max_update=2")
        yield Finding(label, refused(ended, *words) and ended.seconds < 2 * at_once + LIMIT, seen(ended))
        looked = preflight(case, data)
        yield Finding(f"{label}, preflight", refused(looked, *words), seen(looked))
    for folder, label in ((case.folder / "bom", "bom"), (case.work / "crlf_bom", "own: BOM and CRLF")):
        ended = train(case, folder, "optimization.max_update=2")
        yield Finding(label, trained(ended), seen(ended))
        looked = preflight(case, folder)
        yield Finding(
            f"{label}, preflight",
            "manifest-root" not in looked.output and "files-missing" not in looked.output,
            seen(looked),
        )
    ended = train(case, case.folder / "fewer", "optimization.max_update=2")
    warned = [line for line in ended.output.splitlines() if "WARNING" in line and "manifest" in line and ".wav" in line]
    yield Finding(
        "fewer",
        ended.code == 0 and 1 <= len(warned) <= 6,
        f"{len(warned)} warnings: {warned[0][-160:] if warned else ''}",
    )
    looked = preflight(case, case.folder / "fewer")
    yield Finding("fewer, preflight", "[manifest-lengths]" in looked.output, seen(looked))


def _own_manifests(case: Case) -> dict[str, tuple[str, ...]]:
    """Further variants of the same mistakes: name, and what the message must contain."""
    root = case.cases / "training/common/base"
    lines = (root / "train.tsv").read_text().splitlines()[1:]
    valid = f"{root}\n" + "\n".join((root / "valid.tsv").read_text().splitlines()[1:]) + "\n"
    made = {
        "gone": ("\n".join(["/no/such/root", *lines]).encode(), ("train.tsv, line 1", "/no/such/root")),
        "root_is_a_file": ("\n".join([f"{root}/wav/u00.wav", *lines]).encode(), ("train.tsv, line 1", "is a file")),
        "utf16be_no_mark": ("\n".join([str(root), *lines]).encode("utf-16-be"), ("train.tsv, line 1", "UTF-16")),
        "classic_mac": ("\r".join([str(root), *lines]).encode(), ("train.tsv, line 1", "line")),
        "bom_noroot": (b"\xef\xbb\xbf" + "\n".join(lines).encode(), ("train.tsv, line 1",)),
        "nul": ("\n".join([str(root), *lines]).replace("u03", "u\0").encode(), ("train.tsv, line 5",)),
    }
    for name, (content, _) in made.items():
        (case.work / name).mkdir()
        (case.work / name / "train.tsv").write_bytes(content)
        (case.work / name / "valid.tsv").write_text(valid)
    (case.work / "crlf_bom").mkdir()
    (case.work / "crlf_bom" / "train.tsv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([str(root), *lines]).encode())
    (case.work / "crlf_bom" / "valid.tsv").write_bytes(b"\xef\xbb\xbf" + valid.replace("\n", "\r\n").encode())
    return {name: words for name, (_, words) in made.items()}


# -- the manifest script -----------------------------------------------------------------------------------------------


@judges("training/manifest-script")
def manifest_script(case: Case) -> Iterator[Finding]:
    audio = case.cases / "training/common/base"
    ended = case.run(SCRIPT, audio, "--dest", "m1", "--ext", "wav", "--valid-percent", "1")
    yield Finding(
        "--valid-percent 1", refused(ended, "--valid-percent") and not (case.work / "m1").exists(), seen(ended)
    )
    (case.work / "f.tsv").touch()
    ended = case.run(SCRIPT, audio, "--dest", "f.tsv", "--ext", "wav")
    yield Finding("--dest FILE", refused(ended, "--dest", "folder"), seen(ended))
    ended = case.run(SCRIPT, audio, "--dest", "new/train.tsv", "--ext", "wav")
    yield Finding(
        "--dest new/train.tsv", refused(ended, "--dest new") and not (case.work / "new").exists(), seen(ended)
    )
    shutil.copytree(audio, case.work / "capitals")
    os.rename(case.work / "capitals/wav/u03.wav", case.work / "capitals/wav/u03.WAV")
    ended = case.run(SCRIPT, "capitals", "--dest", "m2", "--ext", "wav", "--valid-percent", "0")
    listed = (case.work / "m2/train.tsv").read_text() if ended.code == 0 else ""
    yield Finding("own: .WAV among --ext wav", "u03.WAV\t" in listed and listed.count("\n") == 25, seen(ended))
    ended = case.run(SCRIPT, "capitals", "--dest", "m3", "--ext", "wav", "--valid", audio / "wav")
    roots = (
        [(case.work / "m3" / name).read_text().split("\n")[0] for name in ("train.tsv", "valid.tsv")]
        if ended.code == 0
        else []
    )
    yield Finding(
        "own: --valid DIR",
        roots == [os.path.realpath(case.work / "capitals"), os.path.realpath(audio / "wav")],
        seen(ended),
    )


@judges("training/name-not-utf8")
def name_not_utf8(case: Case) -> Iterator[Finding]:
    for suffix in ("wav", "flac"):
        folder = os.fsencode(case.work / suffix)
        os.makedirs(folder + b"/d\xfcr")
        for number in range(24):
            wave, rate = soundfile.read(case.cases / f"training/common/base/wav/u{number:02d}.wav")
            soundfile.write(
                folder + b"/d\xfcr/caf\xe9%02d." % number + suffix.encode(), wave, rate, format=suffix.upper()
            )
        made = case.run(SCRIPT, suffix, "--dest", f"m_{suffix}", "--ext", suffix, "--valid-percent", "0.2")
        manifest = case.work / f"m_{suffix}/train.tsv"
        count = manifest.read_bytes().count(b"caf\xe9") if manifest.exists() else 0
        yield Finding(f"{suffix}: the script", made.code == 0 and count > 12, f"{seen(made)}; {count} names")
        ended = train(case, case.work / f"m_{suffix}", "optimization.max_update=2")
        yield Finding(f"{suffix}: training", trained(ended, count) and "Logging error" not in ended.output, seen(ended))
        looked = preflight(case, case.work / f"m_{suffix}")
        quiet = (
            not any(name in looked.output for name in ("[data]", "[manifest-", "[files-")) and not looked.has_traceback
        )
        yield Finding(f"{suffix}: preflight", quiet, seen(looked))


# -- formats -----------------------------------------------------------------------------------------------------------


@judges("training/gsm-unseekable")
def gsm(case: Case) -> Iterator[Finding]:
    yield from _format(case, "case", case.folder / "wav", "wav")
    for suffix, subtype in (("au", "G721_32"), ("aiff", "GSM610")):
        (case.work / subtype).mkdir()
        for path in sorted((case.folder / "wav").iterdir()):
            with soundfile.SoundFile(path) as file:
                wave, rate = file.read(file.frames), file.samplerate
            soundfile.write(
                case.work / subtype / f"{path.stem}.{suffix}", wave, rate, format=suffix.upper(), subtype=subtype
            )
        yield from _format(case, f"own: {subtype} in {suffix}", case.work / subtype, suffix)


def _format(case: Case, label: str, folder: Path, suffix: str) -> Iterator[Finding]:
    data = case.work / f"m_{folder.name}_{suffix}"
    made = case.run(SCRIPT, folder, "--dest", data, "--ext", suffix, "--valid-percent", "0.2")
    ended = train(case, data)
    yield Finding(
        f"{label}: training",
        made.code == 0 and ended.code == 0 and "cannot be decoded" not in ended.output,
        seen(ended),
    )
    looked = preflight(case, data)
    yield Finding(
        f"{label}: preflight", "files-unreadable" not in looked.output and not looked.has_traceback, seen(looked)
    )


@judges("training/mp3-estimated-length")
def mp3(case: Case) -> Iterator[Finding]:
    yield from _format(case, "case", case.folder / "wav", "mp3")
    yield _lengths(case, "lengths", case.work / "m_wav_mp3")
    shutil.copytree(case.folder / "wav", case.work / "artwork")
    for path in (case.work / "artwork").iterdir():
        path.write_bytes(b"ID3\x03\x00\x00\x00\x03\x00\x00" + bytes(3 << 14) + path.read_bytes())
    yield from _format(case, "own: with artwork", case.work / "artwork", "mp3")
    yield _lengths(case, "own: with artwork, lengths", case.work / "m_artwork_mp3")


def _lengths(case: Case, label: str, data: Path) -> Finding:
    lines = [
        line.split("\t") for name in ("train.tsv", "valid.tsv") for line in (data / name).read_text().splitlines()[1:]
    ]
    found = {name: int(frames) for name, frames in lines if name in MP3_FRAMES}
    return Finding(label, found == MP3_FRAMES, str(found))


@judges("training/nan-samples")
def nan_samples(case: Case) -> Iterator[Finding]:
    yield _quarantines(case, "", case.folder, "u05.wav")
    for label, value in (("own: inf in another file", np.inf), ("own: -inf and huge", -3e38)):
        data = case.work / label.split()[1]
        shutil.copytree(case.cases / "training/nan-samples/wav", data / "wav")
        soundfile.write(
            data / "wav/u05.wav",
            soundfile.read(case.cases / "training/common/base/wav/u05.wav")[0],
            16000,
            subtype="FLOAT",
        )
        wave, rate = soundfile.read(data / "wav/u11.wav", dtype="float32")
        wave[::50] = value  # any crop has some
        soundfile.write(data / "wav/u11.wav", wave, rate, subtype="FLOAT")
        for name in ("train.tsv", "valid.tsv"):
            (data / name).write_text("\n".join([str(data), *(case.folder / name).read_text().split("\n")[1:]]))
        yield _quarantines(case, label, data, "u11.wav")


def _quarantines(case: Case, label: str, data: Path, name: str) -> Finding:
    ended = train(case, data, "optimization.max_update=10", "task.max_quarantined_share=0.1")
    named = [line for line in ended.output.splitlines() if name in line and "replaced" in line]
    skipped = "skipped: the gradient" in ended.output or "NaN or Inf" in ended.output or "non-finite" in ended.output
    return Finding(
        label, ended.code == 0 and len(named) == 1 and not skipped, named[0][-150:] if named else seen(ended)
    )


# -- transcribing ------------------------------------------------------------------------------------------------------


def transcribe(case: Case, *arguments: str | Path, stdin: bytes | None = None) -> Ended:
    return case.run("fairseq-transcribe", "--path", case.cases / "using/common/en.pt", *arguments, stdin=stdin)


def text_of(case: Case, path: Path) -> str:
    return transcribe(case, path).output.strip()


@judges("using/wav_data_size_0")
def wav_data_size_0(case: Case) -> Iterator[Finding]:
    expected = text_of(case, case.cases / "using/common/a.wav")
    ended = transcribe(case, case.folder / "z.wav")
    yield Finding(
        "", ended.code == 0 and ended.output.strip() == expected, f"status {ended.code}: {ended.last_line[-120:]}"
    )
    content = bytearray((case.cases / "using/common/a.wav").read_bytes())
    content[4:8] = content[40:44] = bytes(4)
    (case.work / "list.wav").write_bytes(content[:36] + b"LIST\x04\0\0\0INFO" + content[36:])
    ended = transcribe(case, case.work / "list.wav")
    yield Finding(
        "own: a chunk before the data",
        ended.output.strip() == expected,
        f"status {ended.code}: {ended.last_line[-120:]}",
    )


@judges("using/audio_messages")
def audio_messages(case: Case) -> Iterator[Finding]:
    content = (case.cases / "using/common/a.wav").read_bytes()
    expected = text_of(case, case.cases / "using/common/a.wav")
    for name, words in {
        "v.mp4": "MP4",
        "empty.wav": "the file is empty",
        "lfs.wav": "LFS",
        "page.wav": "web page",
    }.items():
        ended = transcribe(case, case.folder / name)
        yield Finding(name, refused(ended, name, words), ended.last_line[-150:])
    ended = transcribe(case, "/dev/stdin", stdin=content)
    yield Finding("/dev/stdin", ended.code == 0 and ended.output.strip() == expected, ended.last_line[-120:])
    line = case.line("fairseq-transcribe", "--path", case.cases / "using/common/en.pt")
    ended = case.run_line(
        ["bash", "-c", '"$@" <(cat "$SOUND")', "bash", *line], SOUND=str(case.cases / "using/common/a.wav")
    )
    yield Finding("<(cat ...)", ended.code == 0 and ended.output.strip() == expected, ended.last_line[-120:])
    ended = transcribe(case, case.folder / "rec:10:20")
    yield Finding("rec:10:20", ended.code == 0 and ended.output.strip() == expected, ended.last_line[-120:])
    ended = transcribe(case, "/dev/stdin", stdin=b"<!DOCTYPE html><html>")
    yield Finding("own: a web page through a pipe", refused(ended, "/dev/stdin", "web page"), ended.last_line[-150:])
    ended = transcribe(case, "/dev/zero")
    yield Finding("own: /dev/zero", refused(ended, "/dev/zero"), ended.last_line[-150:])


@judges("using/name_not_utf8")
def using_name_not_utf8(case: Case) -> Iterator[Finding]:
    audio, sound = os.fsencode(case.folder / "au"), case.cases / "using/common/a.wav"
    odd = os.fsdecode(audio + b"/caf\xe9.wav")
    shutil.copy(sound, odd)
    fine, strict = case.folder / "au/ok.wav", {"PYTHONIOENCODING": "utf-8:strict"}
    path = ("--path", case.cases / "using/common/en.pt")
    for kind in ("json", "text"):
        with open(case.work / kind, "wb") as output:  # standard output alone, byte by byte
            line = case.line("fairseq-transcribe", *path, "--format", kind, odd, fine)
            ended = case.run_line(["bash", "-c", f'"$@" 2>errors >{output.name}', "bash", *line], **strict)
        content = (case.work / kind).read_bytes()
        rows = content.splitlines()
        names = [os.fsencode(json.loads(row)["file"]) if kind == "json" else row.split(b"\t")[0] for row in rows]
        right = ended.code == 0 and names == [os.fsencode(odd), os.fsencode(fine)]
        yield Finding(f"transcribe, {kind}", right, f"status {ended.code}, {len(rows)} lines: {content[:100]!r}")
    folder = case.work / "data"
    folder.mkdir()
    (folder / "test.tsv").write_bytes(audio + b"\ncaf\xe9.wav\t16000\nok.wav\t16000\n")
    (folder / "test.ltr").write_text("A |\nB |\n")
    ended = case.run("fairseq-infer", folder, *path, "--gen-subset", "test", "--results-path", "res", **strict)
    written = sorted(entry.name for entry in (case.work / "res").iterdir()) if (case.work / "res").exists() else []
    rows = (case.work / "res/hypo.jsonl").read_text(encoding="utf-8").splitlines() if "hypo.jsonl" in written else []
    names = [os.fsencode(json.loads(row)["file"]) for row in rows]
    right = ended.code == 0 and names == [b"caf\xe9.wav", b"ok.wav"] and "results.json" in written
    yield Finding(
        "infer",
        right and not any(name.endswith(".tmp") for name in written),
        f"status {ended.code}: {' '.join(written)}",
    )
    ended = case.run(SCRIPT, case.folder / "au", "--dest", "m", "--ext", "wav", "--valid-percent", "0")
    listed = (case.work / "m/train.tsv").read_bytes() if ended.code == 0 else b""
    yield Finding("the manifest script", b"\ncaf\xe9.wav\t16000\n" in listed, f"status {ended.code}: {listed[-40:]!r}")
    ended = case.run("fairseq-extract", folder, *path, "--gen-subset", "test", "--output-dir", "features", **strict)
    made = sorted(os.listdir(os.fsencode(case.work / "features"))) if (case.work / "features").exists() else []
    counts = re.search(r'"written": (\d)', ended.output)
    yield Finding(
        "own: extract",
        counts is not None and counts[1] == "2" and b"caf\xe9.npy" in made,
        f"status {ended.code}: {made}",
    )
