"""Drills: many damaged inputs, kills and signals, with counted outcomes.

They are too slow for every change. Run one with `python -m tests.drills.NAME`.
"""
