"""Evaluate a model on a test set, and explain bad error rates.

testset      a manifest's utterances with their references
evaluation   a model's hypotheses for a test set
error_rates  WER, CER and UER with confidence intervals
tuning       beam search weights, tuned on a development set
facts        measurements of a model, its outputs and its audio
explain      known causes of a bad error rate that fit these facts
results      results as text and as files
"""
