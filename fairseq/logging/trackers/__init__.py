"""Experiment trackers: TensorBoard, Weights & Biases, MLflow, each on a thread of its own behind a bounded queue."""
