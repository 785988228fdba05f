"""Drills: many damaged inputs, kills and signals, counted. Too long for every change; each module runs by `python
-m tests.drills.NAME`.
"""
