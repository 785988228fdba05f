"""Align a known text with a CTC model's outputs: when each letter and word was said.

spelling   text -> words -> units of the model's dictionary, with stars for speech that the text lacks
columns    log-probabilities of the symbols that a text uses, one column each
viterbi    the best path through a text, exact for any length, in memory that does not grow with the audio
store      arrays that wait to be read again, on disk if they are large
timing     the path as words and letters, with frames and scores
"""
