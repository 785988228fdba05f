"""Convert models between fairseq and other tools.

portable_model      a model independent of any file format
names               translation of parameter names
hf_config           translation of transformers' configs
vocabulary          translation of vocabularies and output rows
huggingface, torchaudio_model, onnx_model   one format each
foreign             detects the format of a folder
convert             writes a model in another format and compares both
"""
