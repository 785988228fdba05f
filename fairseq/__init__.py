"""wav2vec 2.0, pre-trained and fine-tuned with fairseq's names, configs and checkpoints, on CPU and CUDA."""
