"""Planted faults of what a model learns; see planted_runs.py."""

from __future__ import annotations

from tests.drills.planted_runs import Fault

FAULTS: list[Fault] = []
