"""Exit statuses of a run besides 0 (done) and 1 (an error), with the numbers of sysexits.h."""

COLLAPSED = 65  # EX_DATAERR: the run learnt nothing any more, and common.doctor=stop ended it; its state is saved
HUNG = 69  # EX_UNAVAILABLE: a process made no progress, and the watchdog ended the run
UNSAVED = 74  # EX_IOERR: the run finished or was stopped, and its last state could not be saved
STOPPED = 75  # EX_TEMPFAIL: a signal stopped the run, and its state is saved: rerun the same command to resume
