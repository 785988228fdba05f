"""Rules over decoded audio. The thresholds leave room beside real speech: see docs/data.md."""

from __future__ import annotations

from fairseq.corpora.report.records import ERROR, NOTE, WARNING, Sound
from fairseq.corpora.report.rules import Rules

SOUND_RULES: Rules[Sound] = Rules()
_SILENT = -60.0  # dB
_QUIET = -45.0  # dB, of the loud parts
_CLIPPED = 0.001  # share of samples
_COARSE = 1 / 1024  # of full scale: fewer than 11 bits
_CLIPPED_COARSE = 0.02  # coarse samples are often equal at a peak
_DC, _DC_OF_LEVEL = 0.01, 0.1  # of full scale, and of the signal's own level
_STEADY, _NOISY = 6.0, 12.0  # dB between loud and quiet parts; pauses of read speech are 18 to 100 dB below
_JUDGED = 1.5  # seconds; shorter utterances may have no pause
_CONSTANT = 1.0  # seconds


def _is_silent(sound: Sound) -> bool:
    return sound.level < _SILENT


def _is_steady(sound: Sound) -> bool:
    return sound.seconds >= _JUDGED and sound.loud - sound.floor < _STEADY


@SOUND_RULES.rule(
    "undecodable",
    ERROR,
    "Files that cannot be decoded to the end of the utterance",
    "Replace these files, or remove the lines. Training replaces them with other utterances.",
)
def undecodable(sound: Sound) -> str | None:
    return sound.problem


@SOUND_RULES.rule("silence", ERROR, "Silence", "Remove these lines: there is nothing to learn from.")
def silence(sound: Sound) -> str | None:
    if sound.problem is not None or not _is_silent(sound):
        return None
    return "all samples are equal" if sound.level <= -120 else f"level {sound.level:.0f} dB"


@SOUND_RULES.rule(
    "steady-sound",
    ERROR,
    "Noise, hum or a tone, without pauses as in speech",
    "Listen to them. If they are not speech, remove the lines.",
)
def steady(sound: Sound) -> str | None:
    if sound.problem is not None or _is_silent(sound) or not _is_steady(sound):
        return None
    return f"loud and quiet parts differ by {sound.loud - sound.floor:.0f} dB"


@SOUND_RULES.rule(
    "clipping",
    WARNING,
    "Clipped recordings",
    "Use the originals if they are not clipped. Lowering the level afterwards does not restore the peaks.",
)
def clipping(sound: Sound) -> str | None:
    least = _CLIPPED if sound.resolution < _COARSE else _CLIPPED_COARSE
    if sound.problem is not None or _is_silent(sound) or sound.clipped < least:
        return None
    return f"{100 * sound.clipped:.1f} % of the samples, peak {sound.peak:.2f}"


@SOUND_RULES.rule(
    "dc-offset",
    WARNING,
    "Offset (DC)",
    "Subtract the mean of each recording. task.normalize=true does that for each crop.",
)
def dc_offset(sound: Sound) -> str | None:
    signal = 10 ** (sound.level / 20)
    if sound.problem is not None or _is_silent(sound):
        return None
    if abs(sound.dc) < _DC or abs(sound.dc) < _DC_OF_LEVEL * signal:
        return None
    return f"mean {sound.dc:+.3f} of full scale"


@SOUND_RULES.rule(
    "narrow-band",
    WARNING,
    "Narrow band inside a wide file",
    "They were recorded or compressed at a lower rate, such as telephone speech. Keep them only if what you will "
    "transcribe is like that too, and then convert everything to that band.",
)
def narrow_band(sound: Sound) -> str | None:
    if sound.problem is not None or not sound.bandwidth:
        return None
    return f"nothing above {sound.bandwidth / 1000:.1f} kHz in a file of {sound.sample_rate:,} Hz"


@SOUND_RULES.rule(
    "noisy",
    WARNING,
    "Loud background",
    "Listen to them, and remove what cannot be understood.",
)
def noisy(sound: Sound) -> str | None:
    if sound.problem is not None or _is_silent(sound) or _is_steady(sound) or sound.seconds < _JUDGED:
        return None
    distance = sound.loud - sound.floor
    return f"quiet parts are {distance:.0f} dB below the loud ones" if distance < _NOISY else None


@SOUND_RULES.rule(
    "quiet",
    WARNING,
    "Very low level",
    "Check the recording's gain. task.normalize=true scales each crop, but also the rounding noise.",
)
def quiet(sound: Sound) -> str | None:
    if sound.problem is not None or _is_silent(sound) or sound.loud >= _QUIET:
        return None
    return f"loud parts at {sound.loud:.0f} dB"


@SOUND_RULES.rule(
    "coarse-samples",
    WARNING,
    "Few steps: 8-bit samples in a larger format",
    "Use the originals if they are better: the rounding noise is audible in quiet parts.",
)
def coarse(sound: Sound) -> str | None:
    if sound.problem is not None or _is_silent(sound) or sound.resolution < _COARSE:
        return None
    return f"steps of 1/{1 / sound.resolution:,.0f} of full scale"


@SOUND_RULES.rule(
    "channels",
    WARNING,
    "Channels that do not fit together",
    "Choose one channel when you convert them: averaging loses level, or the signal.",
)
def channels(sound: Sound) -> str | None:
    return sound.channel_note


@SOUND_RULES.rule(
    "digital-silence",
    NOTE,
    "Stretches of exactly constant samples",
    "Padding, a noise gate, or lost packets: cut at the stretch with fairseq-segment if there are many.",
)
def digital_silence(sound: Sound) -> str | None:
    if sound.problem is not None or _is_silent(sound) or sound.constant < _CONSTANT or sound.resolution >= _COARSE:
        return None
    return f"{sound.constant:.1f} s in one piece"
