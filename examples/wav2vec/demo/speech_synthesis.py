"""Speech synthesis with espeak-ng through ctypes: text with pauses in, 16 kHz samples out."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import numpy as np

SAMPLE_RATE = 16000
# espeak-ng's speak_lib.h
_SYNCHRONOUS = 2
_CHARS_UTF8 = 1
_SSML = 0x10
_RATE, _PITCH, _RANGE = 1, 3, 4
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Voice(NamedTuple):
    """One speaker."""

    name: str  # accent and variant: en-us+f2
    words_per_minute: int
    pitch: int  # 0 to 99
    pitch_range: int  # 0 to 99: monotonous to lively


class Synthesizer:
    """The espeak-ng library; use one instance per process.

    The library carries state between utterances, so a corpus is reproducible bit for bit only if a new process makes it
    in the same order.

    Raises:
        ModuleNotFoundError: `espeakng-loader` or `soxr` is not installed (extra `demo`).
        RuntimeError: the library does not start, or rejects a text.
    """

    def __init__(self) -> None:
        import espeakng_loader
        import soxr

        self._resample = soxr.resample
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
        if self._rate <= 0:
            raise RuntimeError(f"espeak-ng could not start with the data in {espeakng_loader.get_data_path()}")
        self._pieces: list[np.ndarray] = []
        self._callback = _CALLBACK(self._receive)  # kept: the library holds no reference to it
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: ctypes._Pointer, count: int, _events: int) -> int:
        if samples and count > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0  # continue

    def speak(self, words: list[str], pauses: list[int], voice: Voice, seed: int) -> np.ndarray:
        """Synthesize words.

        Args:
            words: plain words.
            pauses: pause after each word, in ms.
            voice: the speaker.
            seed: seed of espeak's noise (breath, flutter).
        Returns:
            Samples at 16 kHz, float32 in [-1, 1].
        Raises:
            RuntimeError: espeak-ng does not have the voice, or cannot speak the words.
        """
        library = self._library
        if library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice {voice.name}")
        for parameter, value in ((_RATE, voice.words_per_minute), (_PITCH, voice.pitch), (_RANGE, voice.pitch_range)):
            library.espeak_SetParameter(parameter, value, 0)
        library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        marked = "".join(
            f'{word} <break time="{pause}ms"/> ' if pause else f"{word} "
            for word, pause in zip(words, pauses, strict=True)
        )
        text = f"<speak>{marked}</speak>".encode()
        self._pieces.clear()
        if library.espeak_Synth(text, len(text) + 1, 0, 0, 0, _CHARS_UTF8 | _SSML, None, None) != 0 or not self._pieces:
            raise RuntimeError(f"espeak-ng could not speak {' '.join(words)!r} with the voice {voice.name}")
        speech = np.concatenate(self._pieces).astype(np.float32) / 32768
        return np.clip(self._resample(speech, self._rate, SAMPLE_RATE), -1, 1)
