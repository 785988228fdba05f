"""Pack a source into shards: survey, encode in workers, write in order, finish."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tqdm import tqdm

from fairseq.corpora.pack import outputs, sources, survey
from fairseq.corpora.pack.encode import Encoded, LeftOut, Settings, encode
from fairseq.corpora.pack.record import Plan, Record, makers_of_dictionary, to_line
from fairseq.corpora.pack.shards import Member, Shard
from fairseq.corpora.pack.source import Item, Json, Options, Source
from fairseq.corpora.pack.survey import LabelRules, Survey
from fairseq.corpora.pack.workers import in_order
from fairseq.data.dictionary import Dictionary
from fairseq.installed import advice
from fairseq.utils import make_folder

_ALL_BAD = 100  # this many in a row at the beginning mean that something is wrong with all
_SHOWN = 5  # utterances listed in a message
_SURELY = 0.7  # share of the estimated size that is certainly needed


@dataclass(frozen=True)
class Job:
    """What to pack, and how.

    Args:
        source, kind, options: see `fairseq.corpora.pack.source.open_source`.
        dest, name: the shards are dest/name-000000.tar ...
        settings: of the audio.
        shard_size: bytes, at most; an utterance that is longer gets a shard of its own.
        labels: rules for labels; None: no labels.
        dictionary: the dictionary of letters that labels are checked against; None: that of the destination, or a new
            one.
        max_left_out: the share of utterances that may be left out because they cannot be read.
        workers: processes.
        restart: remove what an earlier command has written of this name.
    """

    source: str
    dest: Path
    name: str = "train"
    kind: str | None = None
    options: Options = field(default_factory=Options)
    settings: Settings = field(default_factory=Settings)
    shard_size: int = 10**9
    labels: LabelRules | None = field(default_factory=LabelRules)
    dictionary: Path | None = None
    max_left_out: float = 0.01
    workers: int = 1
    restart: bool = False


def pack(job: Job) -> dict[str, Json]:
    """Pack a source, or continue where a killed command stopped.

    Returns:
        The numbers to report: utterances, hours, shards, bytes, left_out ...
    Raises:
        ValueError: the source or the options are wrong, the destination has other files, or too many utterances cannot
            be read; finished shards are kept.
        OSError: a file cannot be written.
    """
    if job.settings.sample_rate is not None:
        _check_resampler()
    source = sources.open_source(job.source, job.kind, job.options)
    rules = None if job.labels is None else job.labels._replace(prepared=source.prepared)
    make_folder(job.dest, "--dest")
    record = Record(job.dest, job.name, job.restart)
    try:
        dictionary = _dictionary(job, record)
        loaded = None if dictionary is None else Dictionary.load(str(dictionary))
        found = survey.take(source, rules, loaded, str(dictionary))
        rules = rules if found.has_labels else None
        _check_other_packs(job, rules, dictionary)
        record.begin(_plan(job, source, found, rules, dictionary))
        if record.result is not None:
            return record.result
        outputs.remove_unfinished(job.dest, job.name)
        _check_space(job, found, record)
        _write_shards(job, source, found, record, rules)
        return outputs.write_all(record, rules, dictionary)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ValueError(
                f"the disk of {job.dest} is full. Free some space and rerun the command: it continues."
            ) from error
        raise
    finally:
        record.close()


def _check_resampler() -> None:
    try:
        import soxr  # noqa: F401
    except ImportError as error:
        raise ValueError(f"--resample needs the package soxr, which is not installed: {advice('resample')}") from error


def _dictionary(job: Job, record: Record) -> Path | None:
    """Return the dictionary to check labels against; None: this pack makes it.

    Raises:
        ValueError: --dict differs from the destination's.
    """
    if job.labels is None:
        return None
    existing = job.dest / outputs.LETTERS
    if job.dictionary is None:
        return existing if existing.exists() and not record.made_dictionary else None
    if not job.dictionary.is_file():
        raise ValueError(f"--dict {job.dictionary} does not exist.")
    if existing.exists() and existing.read_bytes() != job.dictionary.read_bytes():
        raise ValueError(
            f"--dict {job.dictionary} differs from {existing}, which the labels of this folder have. Choose another "
            "--dest."
        )
    return job.dictionary


def _check_other_packs(job: Job, rules: LabelRules | None, dictionary: Path | None) -> None:
    if rules is None or dictionary is not None:
        return
    waiting = [name for name, is_done in makers_of_dictionary(job.dest, job.name) if not is_done]
    if waiting:
        raise ValueError(
            f"{job.dest} has the unfinished pack {waiting[0]}, which makes the dictionary. Finish it first, or give "
            "a dictionary with --dict, or use --no-labels."
        )


def _plan(job: Job, source: Source, found: Survey, rules: LabelRules | None, dictionary: Path | None) -> Plan:
    import soundfile

    checksum = None if dictionary is None else hashlib.sha256(dictionary.read_bytes()).hexdigest()
    options: dict[str, Json] = {
        "--shard-size": job.shard_size,
        "--codec": job.settings.codec,
        "--resample": job.settings.sample_rate,
        "--bits": job.settings.bits,
        "labels": rules is not None,
        "--case": None if rules is None else rules.case,
        "--keep": None if rules is None else rules.keep,
        "--drop": None if rules is None else rules.drop,
        "--dict": None if rules is None else checksum,
    }
    return Plan(
        kind=source.kind,
        items=found.items,
        digest=found.digest,
        options=options,
        makes_dictionary=rules is not None and dictionary is None,
        source=os.path.abspath(job.source),
        encoder=f"libsndfile {soundfile.__libsndfile_version__}",
    )


def _check_space(job: Job, found: Survey, record: Record) -> None:
    """Raise ValueError if the disk certainly cannot hold what is left to write."""
    left = found.size * (1 - record.next_item / found.items) * (2 if job.settings.codec == "wav" else 1)
    free = shutil.disk_usage(job.dest).free
    if free < left * _SURELY:
        raise ValueError(
            f"--dest {job.dest}: {free / 1e9:.1f} GB are free, but the shards need about {left / 1e9:.1f} GB. Free "
            "some space, or choose another disk."
        )


def _write_shards(job: Job, source: Source, found: Survey, record: Record, rules: LabelRules | None) -> None:
    """Encode what is left of a source, and write it to shards in the source's order."""
    tally = _LeftOut(job.max_left_out, found.items, record)
    shard: Shard | None = None
    utterances = 0
    number = record.next_item
    bar = tqdm(initial=number, total=found.items, desc=job.name, unit="utt", disable=None)
    try:
        with bar:
            for item, encoded in _encoded(job, source, number, rules):
                bar.update()
                if isinstance(encoded, LeftOut):
                    tally.add(item, encoded, utterances)
                else:
                    facts = _facts(item, found.keys.unique(item.key, number), encoded)
                    members = _members(facts, encoded, found.has_texts)
                    if shard is not None and not shard.holds(sum(m.size() for m in members), job.shard_size):
                        full, shard = shard, None  # from here on, it is the record's
                        _finish(full, record, number, utterances, tally)
                        utterances = 0
                    shard = shard or Shard(record.shard_path())
                    offset = shard.add(members)[0]
                    record.note(
                        {"shard": shard.path.name, "offset": offset, "length": len(encoded.data), "facts": facts}
                    )
                    utterances += 1
                number += 1
        if number != found.items:
            raise ValueError(f"the source has changed: it had {found.items:,} utterances, and now has {number:,}.")
        if shard is not None:
            last, shard = shard, None
            _finish(last, record, number, utterances, tally)
    finally:
        if shard is not None:
            shard.abandon()
    if not record.shards:
        raise ValueError(f"no utterance could be packed. {tally.shown()}")


def _finish(shard: Shard, record: Record, next_item: int, utterances: int, tally: _LeftOut) -> None:
    finished = shard.finish()
    record.finish_shard(finished.size, finished.sha256, next_item, utterances, tally.count)


def _encoded(
    job: Job, source: Source, first: int, rules: LabelRules | None
) -> Iterator[tuple[Item, Encoded | LeftOut]]:
    work = partial(_work, job.settings, rules if rules is not None and rules.drop else None)
    return in_order(work, source.items(first), job.workers)


def _work(settings: Settings, must_have_words: LabelRules | None, item: Item) -> Encoded | LeftOut:
    if must_have_words is not None and not must_have_words.words(item.text):
        return LeftOut(NO_TRANSCRIPT)
    return encode(item, settings)


NO_TRANSCRIPT = "it has no transcript (--drop)"


class _LeftOut:
    """Counts the utterances that cannot be read, and stops if there are too many.

    Args:
        share: of all utterances, at most.
        total: number of all utterances.
        record: receives a line for each.
    """

    def __init__(self, share: float, total: int, record: Record) -> None:
        self.share, self.total, self.record = share, total, record
        self.count = record.left_out
        self.first: list[str] = []

    def add(self, item: Item, left_out: LeftOut, packed: int) -> None:
        dropped = left_out.reason == NO_TRANSCRIPT
        self.record.note({"origin": item.origin, "left_out": left_out.reason, "dropped": dropped})
        if dropped:
            return
        self.count += 1
        if len(self.first) < _SHOWN:
            self.first.append(f"  {item.origin}: {left_out.reason}")
        none_is_good = self.count >= _ALL_BAD and packed == 0 and not self.record.shards
        if self.count > self.share * self.total or none_is_good:
            raise ValueError(
                f"{self.count:,} of {self.total:,} utterances cannot be packed, more than --max-left-out "
                f"{self.share:g} allows. Repair or remove them, or raise --max-left-out; finished shards are kept. "
                f"{self.shown()}"
            )

    def shown(self) -> str:
        return "The first:\n" + "\n".join(self.first) if self.first else ""


def _facts(item: Item, key: str, encoded: Encoded) -> dict[str, Json]:
    """Return what KEY.json and the sidecar say about an utterance."""
    facts: dict[str, Json] = {
        "key": key,
        "origin": item.origin,
        "frames": encoded.frames,
        "sample_rate": encoded.sample_rate,
    }
    if item.text is not None:
        facts["text"] = item.text
    if item.speaker is not None:
        facts["speaker"] = item.speaker
    rest: dict[str, Json] = {name: value for name, value in item.rest.items() if value is not None}
    if rest:
        facts["rest"] = rest
    if encoded.clipped:
        facts["clipped"] = encoded.clipped
    return facts


def _members(facts: dict[str, Json], encoded: Encoded, has_texts: bool) -> list[Member]:
    """Return an utterance's files; all utterances have the same ones, which `datasets` requires."""
    key, text = facts["key"], facts.get("text", "")
    members = [
        Member(f"{key}.{encoded.extension}", encoded.data),
        Member(f"{key}.json", to_line(facts, "replace")),
    ]
    if has_texts:
        members.append(Member(f"{key}.txt", str(text).encode(errors="replace")))
    return members
