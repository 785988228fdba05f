"""What is in a corpus, and what is wrong with it: the work of `fairseq-data-report`."""
