"""What a run's own records say about it: findings, with evidence and what to change."""
