"""Convert models between fairseq and other tools.

portable_model      a model independent of any file format
names               translation of parameter names
hf_kinds            the kinds of models that transformers has, one entry each
hf_config           translation of transformers' configs
hf_folder           files of transformers' folders
vocabulary          translation of vocabularies and output rows
huggingface, torchaudio_model, onnx_model   one format each
fairseq2_model      reads files of fairseq2
foreign             detects the format of a folder
convert             writes a model in another format and compares both
"""
