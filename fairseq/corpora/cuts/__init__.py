"""Cut long recordings into segments at pauses: the code behind `fairseq-segment`.

    place --sound.py--> 16 kHz windows --detector.py--> probabilities --runs.py--> speech runs --planning.py--> segments

`recording.py` takes one line of a manifest through these steps, `segmenting.py` a whole manifest, over processes.
`journal.py` keeps what is finished; `summary.py` counts what was kept and what was left out.

Times inside this package are samples at 16 kHz, whatever the rate of the file; a `Recording` has its file's own.
"""
