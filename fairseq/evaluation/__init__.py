"""How good a model is on a test set, and why not better.

testset      a manifest's utterances, with what was said in them
evaluation   a model's readings of a test set
error_rates  WER, CER and UER with intervals
tuning       the weights of a beam search, found on a development set
facts        what can be measured of a model, its outputs and its audio
explain      which of the known causes of a bad error rate fits these facts
results      all of it in lines for people, and as files
"""
