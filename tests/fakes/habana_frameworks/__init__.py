"""A stand-in for Intel's vendor package, for tests on machines without a Gaudi card.

It has the names and signatures that this project uses of the real one (1.19 to 1.23), records what is called, and
refuses what the real one refuses. Its tensors live on the CPU (`torch.TENSOR_DEVICE`, which the real package does not
have). Put its folder on PYTHONPATH, or use the fixture `fake_habana`. With FAKE_HABANA_RECORD naming a folder, every
process that imports it leaves a file there (`recorder`).
"""
