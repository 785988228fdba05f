"""Trained models at work: transcripts, features and what explains them.

audio     files and arrays, read in pieces
windows   long audio as overlapping windows on the model's grid of frames
model     a checkpoint in the form that inference runs
streaming log-probabilities of windows to words, at constant memory
"""
