"""Quality of a pre-trained checkpoint: a CTC probe on frozen features, and a score that needs no transcripts."""
