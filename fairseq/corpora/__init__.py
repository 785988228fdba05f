"""Tools for whole corpora: pack them into shards, cut long recordings, report what they contain."""
