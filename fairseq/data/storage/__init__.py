"""Bytes of audio, from wherever they lie: byte ranges of local files, and object stores."""
