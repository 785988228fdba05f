"""Judges for cases about using models: labels, dictionaries, decoding, conversion."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from tests.drills.cases import Case, Ended, Finding, judges

# what common/en.pt says of common/a.wav in fp32, on the machine of the report
HEARD = "'RFXNY RZYLXTORIVPGBXRWGEG'GDKRTZRMRHRMPRGRZR"


def transcribe(case: Case, *arguments: str | os.PathLike[str], model: str = "en.pt") -> Ended:
    audio = case.folder.parent / "common" / "a.wav"
    return case.run(
        "fairseq-transcribe", "--path", case.folder.parent / "common" / model, "--precision", "fp32", *arguments, audio
    )


def infer(case: Case, *arguments: str | os.PathLike[str]) -> Ended:
    model = case.folder.parent / "common" / "en.pt"
    return case.run(
        "fairseq-infer", case.folder, "--path", model, "--precision", "fp32", "--gen-subset", "test", *arguments
    )


def said(ended: Ended) -> str:
    """Return the transcript, without log lines of KenLM and of this package."""
    lines = [
        line
        for line in ended.output.splitlines()
        if line and not re.match(r"\d{4}-|Loading the LM|Reading |-{4}|\*+", line)
    ]
    return lines[-1] if lines else ""


def refused(label: str, ended: Ended, *parts: str) -> Finding:
    """Pass if a command ends with a message that has all `parts`, and without a traceback."""
    right = ended.code not in (0, -9) and not ended.has_traceback and all(part in ended.output for part in parts)
    return Finding(label, right, f"code {ended.code}: {ended.last_line[:160]}")


@judges("using/arguments")
def arguments(case: Case) -> Iterator[Finding]:
    folder = case.folder
    found = infer(case, "--lexicon", folder / "w.lex", "--unk-weight", "-inf")
    yield Finding("--unk-weight -inf", found.code == 0, found.last_line[:80])
    lexicon, lm = ("--lexicon", folder / "w.lex"), ("--lm", folder / "w.arpa")
    yield refused("--lm-weight nan", infer(case, *lexicon, *lm, "--lm-weight", "nan"), "--lm-weight")
    yield refused(
        "own: --word-score -inf",
        infer(case, "--lexicon", folder / "w.lex", "--word-score", "-inf"),
        "--word-score is -inf",
    )
    yield refused("--nbest greedy", infer(case, "--nbest", "5"), "--nbest 5", "--lexicon or --lm")
    old = ("--task", "audio_finetuning", "--w2l-decoder", "viterbi", "--criterion", "ctc", "--post-process", "letter")
    yield refused("old infer.py", infer(case, *old), "--w2l-decoder", "fairseq-infer " + str(folder))
    keys = (
        "task=audio_finetuning",
        f"task.data={folder}",
        "common_eval.path=en.pt",
        "decoding.type=viterbi",
        "dataset.gen_subset=test",
    )
    yield refused(
        "own: the newer infer.py",
        case.run("fairseq-infer", *keys),
        f"fairseq-infer {folder} --path en.pt --gen-subset test",
    )
    yield refused("unigrams", infer(case, "--lm", folder / "uni.arpa"), "uni.arpa", "unigrams", "order 2")


@judges("using/bom")
def bom(case: Case) -> Iterator[Finding]:
    words = said(transcribe(case, "--lexicon", case.folder / "bom.lex"))
    yield Finding("lexicon", bool(words) and set(words.split()) <= {"HE", "YES"}, ascii(words))
    plain = said(transcribe(case))
    text = said(transcribe(case, "--dict", case.folder / "bom.dict", model="nodict.pt"))
    yield Finding("dictionary", text == plain, ascii(text))
    (case.folder / "test.wrd").write_text(f"\ufeff{plain}\n", encoding="utf-8")
    (case.folder / "test.ltr").write_text(f"\ufeff{' '.join(plain.replace(' ', '|'))} |\r\n", encoding="utf-8")
    for label, name in (("wrd", "wrd"), ("own: ltr", "ltr")):
        errors = result(infer(case, "--labels", name))["rates"]["wer"]["errors"]
        yield Finding(label, errors == 0, f"{errors} word errors")


def result(ended: Ended) -> dict:
    line = next(line for line in ended.output.splitlines() if line.startswith("{"))
    return json.loads(line)


@judges("using/dict_negative_counts")
def negative_counts(case: Case) -> Iterator[Finding]:
    text = said(transcribe(case, "--dict", case.folder / "neg.dict", model="nodict.pt"))
    yield Finding("", text == said(transcribe(case)), text)
    scores = case.folder / "scores.dict"
    scores.write_text("\u2581the\t-3.4\n")
    ended = transcribe(case, "--dict", scores, model="nodict.pt")
    yield refused("own: scores of sentencepiece", ended, "scores.dict, line 1", "whole number")


@judges("using/dict_two_spaces")
def two_spaces(case: Case) -> Iterator[Finding]:
    plain = said(transcribe(case))
    text = said(transcribe(case, "--dict", case.folder / "two.dict", model="nodict.pt"))
    yield Finding("", text == plain, text)
    tabs = case.folder / "tabs.dict"
    tabs.write_text((case.folder / "two.dict").read_text().replace("  ", "\t "))
    text = said(transcribe(case, "--dict", tabs, model="nodict.pt"))
    yield Finding("own: tab and blank", text == plain, text[:120])


@judges("using/hf_messages")
def hf_messages(case: Case) -> Iterator[Finding]:
    def convert(name: str) -> Ended:
        return case.run("fairseq-convert", case.folder / name, case.work / f"{name}.pt", "--to", "fairseq")

    yield refused("missing shard", convert("shard_missing"), "model-00002-of-00006.safetensors")
    for name in ("noarch", "noarch_plain"):
        ended = convert(name)
        yield Finding(name, ended.code == 0, ended.last_line[-120:])


@judges("using/hf_processor_config")
def hf_processor_config(case: Case) -> Iterator[Finding]:
    path = case.folder / "model" / "processor_config.json"
    settings = json.loads(path.read_text())
    for label, value in (("do_normalize false", False), ("own: do_normalize true", True)):
        settings["feature_extractor"]["do_normalize"] = value
        path.write_text(json.dumps(settings))
        output = case.work / f"{value}.pt"
        case.run("fairseq-convert", case.folder / "model", output, "--to", "fairseq")
        read = case.python(
            f"from fairseq.checkpoint import io; print(io.load({str(output)!r})['cfg']['task']['normalize'])"
        )
        yield Finding(label, read.last_line == str(value), read.last_line)


@judges("using/homophones")
def homophones(case: Case) -> Iterator[Finding]:
    ended = transcribe(case, "--lexicon", case.folder / "hom.lex", "--lm", case.folder / "hom.arpa", "--lm-weight", "5")
    words = said(ended)
    yield Finding("the likeliest is said", "BY" in words.split(), words)
    yield Finding(
        "what is dropped is named", "line 7: BYE" in ended.output, "named" if "BYE" in ended.output else "not named"
    )
    lines = (case.folder / "hom.lex").read_text().splitlines()
    (case.folder / "own.lex").write_text("\n".join(lines[:6] + lines[-1:]) + "\n")
    words = said(
        transcribe(case, "--lexicon", case.folder / "own.lex", "--lm", case.folder / "hom.arpa", "--lm-weight", "5")
    )
    yield Finding("own: seven, the last one likeliest", "BY" in words.split(), words)


def labels(case: Case, *arguments: str) -> tuple[list[str], Ended]:
    """Return the lines of the .wrd file made by prepare_labels.py."""
    script, dest = "examples/wav2vec/prepare_labels.py", case.work / "labels"
    words = ("--layout", "text", "--transcripts", case.folder / "t.txt", "--dest", dest)
    ended = case.run(script, case.folder / "t.tsv", *words, *arguments)
    return (dest / "t.wrd").read_text(encoding="utf-8").split("\n")[:-1] if ended.code == 0 else [], ended


@judges("using/labels_case")
def labels_case(case: Case) -> Iterator[Finding]:
    upper, ended = labels(case)
    warned = "warning" in ended.output and "Turkish" in ended.output
    yield Finding("Turkish is warned of", warned, "warned" if warned else "no warning")
    yield Finding(
        "Georgian stays", upper[2] == "\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0", ascii(upper[2])
    )
    yield Finding("Greek is NFC", unicodedata.is_normalized("NFC", upper[3]), ascii(upper[3]))
    lower, _ = labels(case, "--case", "lower")
    yield Finding("lower of a dotted I", lower[1] == "istanbul", ascii(lower[1]))
    turkish, ended = labels(case, "--case", "upper-tr")
    seen = ascii(turkish[0]) if turkish else ended.last_line[:100]
    yield Finding("own: upper case of Turkish", bool(turkish) and turkish[0] == "ILIK \u0130L\u0130K", seen)


@judges("using/labels_words_split")
def labels_words_split(case: Case) -> Iterator[Finding]:
    found, _ = labels(case)
    names = ("ZWNJ", "soft hyphen", "ZWJ", "left quote and middle dot")
    for name, line, count in zip(names, found, (1, 1, 1, 2), strict=True):
        yield Finding(name, len(line.split()) == count, ascii(line))
    (case.folder / "t.txt").write_text("\u202babc\u202c\na\u200eb\na\u2060b\nab\u200bcd\n", encoding="utf-8")
    found, _ = labels(case)
    yield Finding(
        "own: bidi marks, word joiner, and a zero-width space", found == ["ABC", "AB", "AB", "AB CD"], ascii(found)
    )


@judges("using/lm_gz")
def lm_gz(case: Case) -> Iterator[Finding]:
    import bz2
    import gzip

    plain = gzip.decompress((case.folder / "w.arpa.gz").read_bytes())
    words = said(transcribe(case, "--lexicon", case.folder / "w.lex", "--lm", case.folder / "w.arpa.gz"))
    yield Finding("", bool(words) and set(words.split()) <= {"HE", "YES"}, words[:120])
    (case.folder / "w.arpa.bz2").write_bytes(bz2.compress(plain))
    ended = transcribe(case, "--lexicon", case.folder / "w.lex", "--lm", case.folder / "w.arpa.bz2")
    if set(said(ended).split()) <= {"HE", "YES"}:  # a KenLM that was built with bzip2
        yield Finding("own: bzip2", True, said(ended))
    else:
        yield refused("own: bzip2", ended, "w.arpa.bz2", "Decompress")


@judges("using/lm_nbsp")
def lm_nbsp(case: Case) -> Iterator[Finding]:
    own = case.folder / "own.arpa"
    own.write_text((case.folder / "n.arpa").read_text(encoding="utf-8").replace("\u00a0", "\u3000"), encoding="utf-8")
    for label, path in (("", case.folder / "n.arpa"), ("own: ideographic space", own)):
        words = said(transcribe(case, "--lexicon", case.folder / "w.lex", "--lm", path))
        yield Finding(label, bool(words) and set(words.split()) <= {"HE", "YES"}, words[:120])


@judges("using/reference_invisible")
def reference_invisible(case: Case) -> Iterator[Finding]:
    units = " ".join(said(transcribe(case)).replace(" ", "|")) + " |"
    for label, line in (
        ("ZWSP at the end", f"{units}\u200b"),
        ("own: soft hyphen", units.replace(" |", "\u00ad |", 1)),
    ):
        (case.folder / "test.ltr").write_text(line + "\n", encoding="utf-8")
        ended = infer(case)
        errors = result(ended)["rates"]["wer"]["errors"]
        named = "test.ltr" in ended.output and "line 1: U+" in ended.output
        yield Finding(label, errors == 0 and named, f"{errors} word errors, {'named' if named else 'not named'}")


@judges("using/special_overwrite")
def special_overwrite(case: Case) -> Iterator[Finding]:
    program = """
from fairseq.data.dictionary import Dictionary
from fairseq.decoding.tokens import Tokens
for dictionary in (d := Dictionary.load({path!r}), Dictionary.from_state_dict(d.state_dict())):
    print(dictionary.bos(), dictionary.index('<s>'), Tokens.from_dictionary(dictionary).blank, len(dictionary))
"""
    listed = case.python(
        f"from fairseq.data.dictionary import Dictionary; Dictionary.load({str(case.folder / 'listed.txt')!r})"
    )
    good = "listed.txt, line 1" in listed.last_line and "#fairseq:overwrite" not in listed.last_line
    yield Finding("advice", good, listed.last_line[:160])
    found = case.python(program.format(path=str(case.folder / "overwrite.txt")))
    yield Finding("one blank", found.output.split() == ["0", "0", "0", "10"] * 2, " ".join(found.output.split()))
    some = case.folder / "some.txt"
    some.write_text("| 5\n<s> 1 #fairseq:overwrite\nA 3\n")
    found = case.python(program.format(path=str(some)))
    yield Finding(
        "own: one of them, in the middle",
        found.output.split() == ["0", "0", "0", "7"] * 2,
        " ".join(found.output.split()),
    )


@judges("using/subtitles_several")
def subtitles_several(case: Case) -> Iterator[Finding]:
    for kind in ("srt", "vtt"):
        ended = transcribe(case, "--format", kind, case.folder / "b.wav")
        yield refused(kind, ended, "--output-dir")
        output = case.work / kind
        transcribe(case, "--format", kind, "--output-dir", output, case.folder / "b.wav")
        made = sorted(path.name for path in output.iterdir())
        yield Finding(f"own: {kind} into a folder", made == [f"a.{kind}", f"b.{kind}"], " ".join(made))


@judges("using/table_long_field")
def table_long_field(case: Case) -> Iterator[Finding]:
    for label, content in (
        ("", "path\tsentence\na.wav\t" + "a" * 200_000),
        ("own: without a header", "a.wav\t" + "ab " * 100_000),
    ):
        (case.folder / "t.tsv").write_text(content + "\n")
        words = ("--layout", "tsv", "--transcripts", case.folder / "t.tsv", "--dest", case.work / "o")
        ended = case.run("examples/wav2vec/prepare_labels.py", case.folder / "test.tsv", *words)
        length = os.path.getsize(case.work / "o" / "test.wrd") if ended.code == 0 else 0
        yield Finding(label, length >= 200_000, f"{length} bytes; {ended.last_line[:80]}")


DECODE = """
import transformers, soundfile, torch
processor = transformers.AutoProcessor.from_pretrained({folder!r})
model = transformers.Wav2Vec2ForCTC.from_pretrained({folder!r}).eval()
wave, _ = soundfile.read({audio!r}, dtype="float32")
print(processor.batch_decode(model(**processor(wave, sampling_rate=16000, return_tensors="pt")).logits.argmax(-1))[0])
"""


@judges("using/to_hf_units")
def to_hf_units(case: Case) -> Iterator[Finding]:
    audio = case.folder.parent / "common" / "a.wav"
    for name in ("spm", "words", "phones"):
        ours = said(case.run("fairseq-transcribe", "--path", case.folder / f"{name}.pt", "--precision", "fp32", audio))
        case.run("fairseq-convert", case.folder / f"{name}.pt", case.work / name, "--to", "hf")
        theirs = case.python(DECODE.format(folder=str(case.work / name), audio=str(audio))).last_line
        yield Finding(name, ours.split() == theirs.split() and bool(ours), f"{theirs[:60]} | {ours[:60]}")
        back: Path = case.work / f"{name}.back.pt"
        case.run("fairseq-convert", case.work / name, back, "--to", "fairseq")
        again = said(case.run("fairseq-transcribe", "--path", back, "--precision", "fp32", audio))
        yield Finding(f"own: {name} and back", again == ours, again[:60])
