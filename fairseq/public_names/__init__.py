"""fairseq's public names: those that live in another module here, and those that are not offered."""
