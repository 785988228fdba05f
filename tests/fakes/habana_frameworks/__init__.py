"""A fake of Intel's vendor package, for tests on machines without a Gaudi card.

It has the names and signatures of the real one (1.19 to 1.23) that this project uses, records the calls, and refuses
what the real one refuses. Its tensors are on the CPU (`torch.TENSOR_DEVICE`, which the real package does not have). Put
its folder on PYTHONPATH, or use the fixture `fake_habana`. If FAKE_HABANA_RECORD names a folder, every process that
imports the package writes a file there (`recorder`).
"""
