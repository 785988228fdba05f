"""Reference curves with their spread, for configs that are trained often, and for your own."""

from fairseq.doctor.bands.band import Band, Place, band_of, known, own_folder
from fairseq.doctor.bands.making import make, save

__all__ = ["Band", "Place", "band_of", "known", "make", "own_folder", "save"]
