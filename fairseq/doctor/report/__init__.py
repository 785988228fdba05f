"""The report of runs as a page: the work of `fairseq-report`."""
