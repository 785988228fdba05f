"""A trained model at work: transcripts and features.

audio       files and arrays, read in pieces
windows     long audio as overlapping windows on the model's grid of frames
model       a checkpoint in the form that inference runs
streaming   log-probabilities of windows to words, at constant memory
recognise   many utterances, short ones in batches and long ones in windows
extraction  features of a manifest's files, by one process or several
"""
