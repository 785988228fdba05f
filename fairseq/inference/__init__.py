"""Transcribe audio and extract features with a trained model.

audio       files and arrays, read in pieces
windows     long audio as overlapping windows on the model's grid of frames
model       a checkpoint prepared for inference
streaming   from windows of log-probabilities to words, in constant memory
recognise   many utterances, short ones in batches and long ones in windows
extraction  features of all files in a manifest, with one or more processes
"""
