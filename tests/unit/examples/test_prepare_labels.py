"""The label makers, run as users run them."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fairseq.data.dictionary import Dictionary
from fairseq.data.labels import read_labels

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "wav2vec"
FILES = ["7/8/7-8-0000.flac", "7/8/7-8-0001.flac", "9/1/9-1-0000.flac"]
TEXTS = ["HELLO YOU", "IT'S A", "BOOK"]


def load(script: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(script, EXAMPLES / f"{script}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(script: str, *arguments: object, status: int = 0) -> str:
    """What the script prints, or with status 1 the error that it ends with."""
    module, printed = load(script), io.StringIO()
    args = module.get_parser().parse_args(list(map(str, arguments)))
    with contextlib.redirect_stdout(printed):
        if status:
            with pytest.raises(ValueError) as error:
                module.main(args)
            return str(error.value)
        assert module.main(args) == 0
    return printed.getvalue()


@pytest.mark.process
def test_an_error_ends_the_script_plainly(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(EXAMPLES / "prepare_labels.py"),
        str(tmp_path / "gone.tsv"),
        "--layout",
        "librispeech",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (
        done.returncode == 1
        and done.stderr.startswith("error: cannot read the manifest")
        and "Traceback" not in done.stderr
    )


def write_manifest(path: Path, root: Path, files: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([str(root), *(f"{file}\t16000" for file in files)]) + "\n")
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A LibriSpeech tree of transcripts (no audio is read), and train.tsv."""
    for folder, lines in (("7/8", ["7-8-0000 HELLO YOU", "7-8-0001 IT'S A"]), ("9/1", ["9-1-0000 BOOK"])):
        (tmp_path / "audio" / folder).mkdir(parents=True)
        name = folder.replace("/", "-")
        (tmp_path / "audio" / folder / f"{name}.trans.txt").write_text("\n".join(lines) + "\n")
    write_manifest(tmp_path / "m" / "train.tsv", tmp_path / "audio", FILES)
    return tmp_path


LETTERS = ["H E L L O | Y O U |", "I T ' S | A |", "B O O K |"]


def assert_labels(folder: Path, name: str = "train") -> None:
    assert (folder / f"{name}.ltr").read_text().splitlines() == LETTERS
    assert (folder / f"{name}.wrd").read_text().splitlines() == TEXTS


def test_libri_labels_takes_fairseqs_arguments(corpus: Path) -> None:
    printed = run("libri_labels", corpus / "m/train.tsv", "--output-dir", corpus / "out", "--output-name", "train")
    assert_labels(corpus / "out")
    dictionary = corpus / "out/dict.ltr.txt"
    assert dictionary.read_text().splitlines()[:2] == ["| 5", "O 4"] and str(dictionary) in printed
    dictionary.write_text("| 1\n")  # fairseq's own, say: it stays
    run("libri_labels", corpus / "m/train.tsv", "--output-dir", corpus / "out", "--output-name", "train")
    assert dictionary.read_text() == "| 1\n"
    (corpus / "audio/9/1/9-1.trans.txt").unlink()
    told = run(
        "libri_labels", corpus / "m/train.tsv", "--output-dir", corpus / "out", "--output-name", "train", status=1
    )
    assert "1 utterances" in told and "line 4: 9/1/9-1-0000.flac" in told


def test_words_are_parted_by_one_blank_and_files_are_no_folders(corpus: Path) -> None:
    (corpus / "audio/9/1/9-1.trans.txt").write_text("9-1-0000  BIG  BOOK \n")
    run("libri_labels", corpus / "m/train.tsv", "--output-dir", corpus / "out", "--output-name", "train")
    assert (corpus / "out/train.ltr").read_text().splitlines()[2] == "B I G | B O O K |"
    (corpus / "file").write_text("")
    told = run(
        "libri_labels", corpus / "m/train.tsv", "--output-dir", corpus / "file", "--output-name", "train", status=1
    )
    assert told.startswith("--output-dir") and "cannot make this folder" in told
    told = run("prepare_labels", corpus / "m/train.tsv", "--layout", "librispeech", "--dest", corpus / "file", status=1)
    assert told.startswith("--dest") and "cannot make this folder" in told


def test_librispeech_layout_and_dictionary(corpus: Path) -> None:
    printed = run("prepare_labels", corpus / "m/train.tsv", "--layout", "librispeech")
    assert_labels(corpus / "m")
    dictionary = Dictionary.load(corpus / "m/dict.ltr.txt")
    assert dictionary.symbols[4:6] == ["|", "O"] and len(dictionary) == 4 + 14 and dictionary.get_count(4) == 5
    assert len(read_labels(corpus / "m/train.ltr", dictionary)) == 3
    assert set(Dictionary.load(corpus / "m/dict.wrd.txt").symbols[4:]) == {"HELLO", "YOU", "IT'S", "A", "BOOK"}
    assert "train: 3 utterances" in printed and "dictionary: 14 letters" in printed


TABLE = [f"{file}\t{text}\n" for file, text in zip(FILES, TEXTS, strict=True)]
CLIPS = [f"x\t{Path(file).stem}.mp3\t{text.lower()}!\n" for file, text in zip(FILES, TEXTS, strict=True)]


@pytest.mark.parametrize(
    "layout, text",
    [
        ("tsv", "".join(TABLE)),
        ("tsv", "".join(TABLE[::-1])),
        ("commonvoice", "client_id\tpath\tsentence\n" + "".join(CLIPS)),
        ("text", "\n".join(text.capitalize() for text in TEXTS) + "\n"),
    ],
    ids=["tsv", "tsv in another order", "commonvoice", "text"],
)
def test_other_layouts(corpus: Path, layout: str, text: str) -> None:
    (corpus / "transcripts").write_text(text)
    run(
        "prepare_labels",
        corpus / "m/train.tsv",
        "--layout",
        layout,
        "--transcripts",
        corpus / "transcripts",
        "--dest",
        corpus / "out",
    )
    assert_labels(corpus / "out")


def test_a_folder_of_texts_and_a_second_manifest(corpus: Path) -> None:
    """The first manifest's letters are the dictionary; letters that only another one has are told by line."""
    write_manifest(corpus / "m/valid.tsv", corpus / "audio", FILES[:1])
    (corpus / "texts").mkdir()
    (corpus / "texts/train.txt").write_text("\n".join(TEXTS) + "\n")
    (corpus / "texts/valid.txt").write_text("hello book\n")
    command = (
        "prepare_labels",
        corpus / "m/train.tsv",
        corpus / "m/valid.tsv",
        "--layout",
        "text",
        "--transcripts",
        corpus / "texts",
    )
    run(*command)
    assert (corpus / "m/valid.ltr").read_text() == "H E L L O | B O O K |\n"
    (corpus / "texts/valid.txt").write_text("jazz\n")
    told = run(*command, status=1)
    assert "valid.ltr" in told and "line 1" in told and "'J'" in told


def test_any_script(corpus: Path) -> None:
    (corpus / "t").write_text("Привет, мир!\n¿Qué tal?\nनमस्ते दुनिया\n", encoding="utf-8")
    printed = run(
        "prepare_labels", corpus / "m/train.tsv", "--layout", "text", "--transcripts", corpus / "t", "--case", "lower"
    )
    lines = (corpus / "m/train.wrd").read_text(encoding="utf-8").splitlines()
    assert lines == ["привет мир", "qué tal", "नमस्ते दुनिया"]
    assert (corpus / "m/train.ltr").read_text(encoding="utf-8").splitlines()[1] == "q u é | t a l |"
    assert "removed from the texts" in printed and "'¿' 1x" in printed


def test_notes_on_the_texts_and_letters_that_training_lacks(corpus: Path) -> None:
    manifest, texts = corpus / "m/train.tsv", corpus / "t"
    texts.write_text("at 5\nat six\nthe ｅnd\n", encoding="utf-8")
    printed = run("prepare_labels", manifest, "--layout", "text", "--transcripts", texts, "--case", "lower")
    assert "note: transcripts with digits: 1, such as 'at 5'" in printed
    assert "note: the texts have other forms of plain letters: ｅ (U+FF45)" in printed
    other = corpus / "m/valid.tsv"
    other.write_bytes(manifest.read_bytes())
    (corpus / "texts").mkdir()
    for name, text in (("train", "at six\n" * 3), ("valid", "at six\nat ñ\nsix\n")):
        (corpus / f"texts/{name}.txt").write_text(text, encoding="utf-8")
    told = run("prepare_labels", manifest, other, "--layout", "text", "--transcripts", corpus / "texts", status=1)
    assert "letters that the dictionary of" in told and "line 2: 'Ñ'" in told and "move them to where" in told


def test_what_does_not_fit_is_told(corpus: Path) -> None:
    manifest, transcripts = corpus / "m/train.tsv", corpus / "t"
    transcripts.write_text("HELLO\n")
    assert "1 lines" in run("prepare_labels", manifest, "--layout", "text", "--transcripts", transcripts, status=1)
    transcripts.write_text(f"{FILES[0]}\tHELLO\n{FILES[2]}\t...\n")
    told = run("prepare_labels", manifest, "--layout", "tsv", "--transcripts", transcripts, status=1)
    assert "2 of 3 utterances" in told and f"line 3: {FILES[1]}" in told and f"line 4: {FILES[2]}" in told
    run("prepare_labels", manifest, "--layout", "tsv", "--transcripts", transcripts, "--drop", "--dest", corpus / "out")
    assert (corpus / "out/train.tsv").read_text().splitlines()[1:] == [f"{FILES[0]}\t16000"]
    assert (corpus / "out/train.ltr").read_text() == "H E L L O |\n"
    transcripts.write_text(f"{FILES[0]}\tHELLO\n{FILES[0]}\tOTHER\n")
    assert "line 2: a second, different transcript" in run(
        "prepare_labels", manifest, "--layout", "tsv", "--transcripts", transcripts, status=1
    )
    transcripts.write_text("path\twords\nx\ty\n")
    told = run("prepare_labels", manifest, "--layout", "commonvoice", "--transcripts", transcripts, status=1)
    assert "no column is named 'sentence'" in told


def test_names_that_are_not_utf8_go_through(tmp_path: Path) -> None:
    folder = tmp_path / "7-8.trans.txt"
    folder.write_text("a HELLO\nb YOU\n")
    manifest = tmp_path / "m.tsv"
    manifest.write_bytes(f"{tmp_path}\na.flac\t1\ncaf".encode() + b"\xe9.flac\t2\nb.flac\t3\n")
    assert r"line 3: caf\xe9.flac" in run("prepare_labels", manifest, "--layout", "librispeech", status=1)
    manifest.write_bytes(manifest.read_bytes().replace(b"a.flac", b"\xfc/a.flac"))
    (tmp_path / "m").mkdir()
    table = tmp_path / "t"
    table.write_text("a\tHELLO\nb\tYOU\n")
    run("prepare_labels", manifest, "--layout", "tsv", "--transcripts", table, "--drop", "--dest", tmp_path / "m")
    assert (tmp_path / "m/m.tsv").read_bytes().split(b"\n")[1:3] == [b"\xfc/a.flac\t1", b"b.flac\t3"]


def test_transcripts_of_segments(corpus: Path) -> None:
    manifest = corpus / "m" / "train.tsv"
    manifest.write_text(f"{corpus}/audio\na.flac\t100\t0\na.flac\t50\t100\nb.flac\t9\t7\n")
    for script, arguments in (
        ("prepare_labels", ["--layout", "librispeech"]),
        ("libri_labels", ["--output-dir", corpus / "out", "--output-name", "train"]),
    ):
        told = run(script, manifest, *arguments, status=1)
        assert "train.tsv has segments" in told and "such as a.flac:0-100" in told
    (corpus / "texts.tsv").write_text("a.flac\tALL OF IT\na.flac:0-100\tHELLO YOU\nb.flac:7-16\tBOOK\n")
    told = run("prepare_labels", manifest, "--layout", "tsv", "--transcripts", corpus / "texts.tsv", status=1)
    assert "1 of 3 utterances" in told and "line 3: a.flac:100-150" in told
    more = ["--transcripts", corpus / "texts.tsv", "--drop", "--dest", corpus / "out"]
    printed = run("prepare_labels", manifest, "--layout", "tsv", *more)
    assert (corpus / "out/train.tsv").read_text().splitlines()[1:] == ["a.flac\t100\t0", "b.flac\t9\t7"]
    assert (corpus / "out/train.wrd").read_text().splitlines() == ["HELLO YOU", "BOOK"]
    assert "which fairseq itself does not open" in printed
