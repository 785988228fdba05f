"""Make the report: run the passes, collect the findings, and describe each corpus."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from fairseq.corpora.report import copies
from fairseq.corpora.report.anchors import AnchorTable
from fairseq.corpora.report.batches import BatchSettings, BatchSummary, plan
from fairseq.corpora.report.copies import Numbering, Pair
from fairseq.corpora.report.corpus import SPEAKER, Corpus
from fairseq.corpora.report.file_rules import HEADER_RULES
from fairseq.corpora.report.header_pass import Headers, full_key, read_part, spans
from fairseq.corpora.report.pool import Bars, Workers
from fairseq.corpora.report.records import SEVERITIES, Finding
from fairseq.corpora.report.rules import joined
from fairseq.corpora.report.sound_pass import PART, Choice, Sounds, measure_part
from fairseq.corpora.report.sound_pass import Part as SoundPart
from fairseq.corpora.report.sound_rules import SOUND_RULES
from fairseq.corpora.report.tally_rules import channel_counts, root, sample_rates
from fairseq.corpora.report.text_pass import Piece, Texts, read_texts
from fairseq.corpora.report.text_rules import TEXT_RULES

logger = logging.getLogger("fairseq_cli.data_report")  # the name in the command's log lines

DECODE = ("all", "sample", "none")
SAMPLE = 2000  # utterances that are decoded with --decode sample
_TRIED = 48  # utterances decoded first, to say how long the rest will take


@dataclass(frozen=True)
class ReportSettings:
    """What to report, and how."""

    manifests: tuple[str, ...]
    valid: tuple[str, ...] = ()
    decode: str = "all"  # one of DECODE
    workers: int = 1
    speaker_pattern: str = SPEAKER
    batches: BatchSettings = field(default_factory=BatchSettings)


class Description(NamedTuple):
    """What is in one corpus."""

    corpus: Corpus
    headers: Headers
    sounds: Sounds
    texts: Texts | None
    speakers: int  # 0: unknown
    batches: BatchSummary | None


@dataclass
class DataReport:
    """Findings, the most severe first, and what each corpus contains."""

    settings: ReportSettings
    findings: list[Finding]
    corpora: list[Description]
    notes: list[str]  # what was not checked, and why

    def count(self, severity: str) -> int:
        return sum(finding.severity == severity for finding in self.findings)


class _Arrays:
    """What is kept of every utterance, over all corpora: 28 bytes, and 8 more for segments."""

    def __init__(self, corpora: list[Corpus]) -> None:
        self.numbering = Numbering(corpora)
        total = int(self.numbering.offsets[-1])
        self.sizes = np.concatenate([corpus.sizes for corpus in corpora])
        self.rates = np.zeros(total, dtype=np.int32)  # Hz; 0: not to be decoded
        self.keys = np.zeros(total, dtype=np.uint64)  # of the bytes; 0: unknown
        self.digests = np.zeros(total, dtype=np.uint64)  # of the samples; 0: unknown
        segments = any(corpus.has_starts for corpus in corpora)
        self.places = np.zeros(total if segments else 0, dtype=np.uint64)


def make_report(settings: ReportSettings, bars: Bars) -> DataReport:
    """Look at everything that `settings` select.

    Args:
        settings: what to report.
        bars: makes the bar of each pass.
    Raises:
        ValueError: a manifest, label file or dictionary is malformed; names file and line.
    """
    settings.batches.check()
    corpora = [Corpus(path, True, settings.speaker_pattern) for path in settings.manifests]
    corpora += [Corpus(path, False, settings.speaker_pattern) for path in settings.valid]
    return _Making(settings, corpora, bars).report()


class _Making:
    def __init__(self, settings: ReportSettings, corpora: list[Corpus], bars: Bars) -> None:
        self.settings, self.corpora, self.bars = settings, corpora, bars
        self.arrays = _Arrays(corpora)
        self.numbering = self.arrays.numbering
        self.headers = [Headers() for _ in corpora]
        self.sounds = [Sounds() for _ in corpora]
        self.anchors = AnchorTable()
        self.notes: list[str] = []

    def report(self) -> DataReport:
        # the workers come before the bars, which start a thread: a process with threads must not fork
        with Workers(self.settings.workers, self.corpora) as workers:
            self._read_headers(workers)
            if self.settings.decode != "none":
                self._decode(workers)
            texts = self._read_texts(workers)
        speakers = [corpus.speakers() for corpus in self.corpora]
        findings = joined(
            [
                *(self._of_corpus(number, texts[number]) for number in range(len(self.corpora))),
                self._of_pairs(speakers),
            ],
            SEVERITIES,
        )
        self._note_limits(texts, speakers)
        described = [
            Description(
                corpus,
                self.headers[number],
                self.sounds[number],
                texts[number],
                len(speakers[number]),
                plan(corpus.sizes, self.settings.batches, self.headers[number].usual_rate() or 16_000),
            )
            for number, corpus in enumerate(self.corpora)
        ]
        return DataReport(self.settings, findings, described, self.notes)

    # -- passes --------------------------------------------------------------------------------------------------------

    def _read_headers(self, workers: Workers) -> None:
        total = int(self.numbering.offsets[-1])
        with self.bars("headers", total, "utterances") as bar:
            for part in workers.map(read_part, spans(self.corpora)):
                first = int(self.numbering.offsets[part.span.corpus])
                rows = slice(first + part.span.begin, first + part.span.end)
                self.headers[part.span.corpus].merge(part.headers)
                self.arrays.rates[rows], self.arrays.keys[rows] = part.rates, part.keys
                if part.places is not None:
                    self.arrays.places[rows] = part.places
                bar.advance(part.span.end - part.span.begin)

    def _decode(self, workers: Workers) -> None:
        """Decode a few utterances to learn how long it will take, say so, and decode the rest."""
        chosen = np.flatnonzero(self.arrays.rates)
        if self.settings.decode == "sample" and len(chosen) > SAMPLE:
            chosen = chosen[np.linspace(0, len(chosen) - 1, SAMPLE).astype(np.int64)]
        if len(chosen) == 0:
            return
        tried = np.unique(np.linspace(0, len(chosen) - 1, min(_TRIED, len(chosen))).astype(np.int64))
        took = audio = 0.0
        for part in workers.map(measure_part, self._choices(chosen[tried], max(1, _TRIED // (4 * workers.count)))):
            self._take(part)
            took, audio = took + part.took, audio + part.audio
        rest = np.delete(chosen, tried)
        if len(rest) == 0:
            return
        seconds = float(self._lengths(rest).sum())
        expected = seconds * took / audio / workers.count if audio else 0.0
        logger.info(
            "decoding %s of audio, about %s with %d process%s",
            duration(seconds),
            duration(expected),
            workers.count,
            "" if workers.count == 1 else "es",
        )
        with self.bars("decoding", len(rest), "utterances") as bar:
            for part in workers.map(measure_part, self._choices(rest, PART)):
                self._take(part)
                bar.advance(len(part.choice.indices))

    def _read_texts(self, workers: Workers) -> list[Texts | None]:
        with self.bars("labels", 2 * int(self.numbering.offsets[-1]), "lines") as bar:  # each is read twice

            def over(function: Callable[[object, Piece], Texts], pieces: list[Piece]) -> Iterator[Texts]:
                for piece, part in zip(pieces, workers.map(function, pieces), strict=True):
                    bar.advance(len(piece.seconds))
                    yield part

            return [
                read_texts(number, corpus, self._seconds(number), over) for number, corpus in enumerate(self.corpora)
            ]

    def _choices(self, numbers: np.ndarray, size: int) -> list[Choice]:
        """Cut utterances, numbered over all corpora, into tasks of one corpus each."""
        bounds = np.searchsorted(numbers, self.numbering.offsets)
        return [
            Choice(corpus, numbers[begin : min(begin + size, bounds[corpus + 1])] - self.numbering.offsets[corpus])
            for corpus in range(len(self.corpora))
            for begin in range(int(bounds[corpus]), int(bounds[corpus + 1]), size)
        ]

    def _take(self, part: SoundPart) -> None:
        first = int(self.numbering.offsets[part.choice.corpus])
        self.sounds[part.choice.corpus].merge(part.sounds)
        self.arrays.digests[first + part.choice.indices] = part.digests
        self.anchors.add(part.hashes, first + part.owners, part.places)

    def _lengths(self, numbers: np.ndarray) -> np.ndarray:
        """Return the seconds of utterances numbered over all corpora."""
        sizes = self.arrays.sizes[numbers]
        rates = self.arrays.rates[numbers]
        return np.where(rates > 0, sizes / np.maximum(rates, 1), 0.0)

    def _seconds(self, number: int) -> np.ndarray:
        begin, end = self.numbering.offsets[number : number + 2].tolist()
        return self._lengths(np.arange(begin, end))

    # -- findings ------------------------------------------------------------------------------------------------------

    def _of_corpus(self, number: int, texts: Texts | None) -> list[Finding]:
        corpus, headers = self.corpora[number], self.headers[number]
        differing = [sample_rates(headers, corpus), channel_counts(headers, corpus)]
        without_root = root(headers, corpus)
        found = HEADER_RULES.findings(headers.hits, corpus.line)
        if without_root is not None:  # instead of naming every line
            found = [without_root, *(finding for finding in found if finding.name != "missing")]
        found += SOUND_RULES.findings(self.sounds[number].hits, corpus.line)
        found += [finding for finding in differing if finding is not None]
        if texts is not None:
            found += texts.findings + TEXT_RULES.findings(texts.hits, corpus.line)
        return found

    def _of_pairs(self, speakers: list[dict[str, int]]) -> list[Finding]:
        same = copies.equal_pairs(self.arrays.digests, "the same samples")
        known = {(pair.first, pair.second) for pair in same}
        same += [pair for pair in self._same_bytes() if (pair.first, pair.second) not in known]
        known |= {(pair.first, pair.second) for pair in same}
        overlapping = self._overlapping(known)
        known |= {(pair.first, pair.second) for pair in overlapping}
        overlapping += copies.shared_pairs(self.anchors.shared(), known, self._length_of)
        found = [
            copies.across([*same, *overlapping], self.numbering),
            copies.duplicates(same, self.numbering),
            copies.cut_twice(overlapping, self.numbering),
            copies.speakers_across(speakers, self.numbering),
        ]
        return [finding for finding in found if finding is not None]

    def _same_bytes(self) -> list[Pair]:
        """Pair files with the same bytes: those with equal quick keys, if all their bytes are equal too."""
        candidates = copies.equal_pairs(self.arrays.keys, "the same bytes")
        first: dict[int, int] = {}
        for pair in candidates:
            if pair.first not in first:
                first[pair.first] = self._full_key(pair.first)
        return [pair for pair in candidates if self._full_key(pair.second) == first[pair.first]]

    def _full_key(self, number: int) -> int:
        corpus = self.corpora[self.numbering.corpus_of(number)]
        index = number - int(self.numbering.offsets[self.numbering.corpus_of(number)])
        where = corpus.local(index)
        return 0 if where is None else full_key(where, "")

    def _overlapping(self, known: set[tuple[int, int]]) -> list[Pair]:
        if len(self.arrays.places) == 0:
            return []
        starts = np.concatenate([corpus.starts() for corpus in self.corpora])
        pairs = copies.overlapping_segments(self.arrays.places, starts, self.arrays.sizes, self.arrays.rates)
        return [pair for pair in pairs if (pair.first, pair.second) not in known]

    def _length_of(self, number: int) -> tuple[int, int]:
        return int(self.arrays.sizes[number]), int(self.arrays.rates[number])

    def _note_limits(self, texts: list[Texts | None], speakers: list[dict[str, int]]) -> None:
        """Say what was not checked."""
        if self.settings.decode == "none":
            self.notes.append(
                "No audio was decoded (--decode none): silence, clipping, levels, bandwidth and overlapping parts were "
                "not checked, and copies only byte by byte."
            )
        decoded, readable = sum(sound.decoded for sound in self.sounds), int((self.arrays.rates > 0).sum())
        if self.settings.decode == "sample" and decoded < readable:
            self.notes.append(
                f"{decoded:,} of {readable:,} utterances were decoded (--decode sample). Faults and copies among the "
                "others were not looked for; --decode all does."
            )
        if self.anchors.share < 1:
            self.notes.append(
                f"Only every {round(1 / self.anchors.share)}th place of a recording was compared, to limit memory: "
                "short overlaps between parts of one recording may be missed."
            )
        if not any(speakers):
            self.notes.append(
                "Speakers are unknown: the names are not SPEAKER-CHAPTER-UTTERANCE as in LibriSpeech, and there is no "
                "NAME.jsonl from fairseq-pack. --speaker-pattern says where a name has the speaker."
            )
        if not any(texts):
            self.notes.append("There are no labels (.ltr, .wrd) beside the manifests.")


def duration(seconds: float) -> str:
    """Format a length of time, such as 3.2 hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} hours"
