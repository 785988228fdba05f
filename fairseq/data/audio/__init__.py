"""Raw audio: manifests, decoding, quarantine and data sets."""
