"""Which names `fairseq` answers to: names that live in another module here, and fairseq's names that are not
offered.
"""
