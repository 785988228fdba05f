"""Models in other tools' forms: `portable_model` is what they have in common, `names` translates parameters, one file
a format, `foreign` tells them apart; `convert` writes one from another.
"""
