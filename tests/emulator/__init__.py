"""Runs the kernels of csrc/ on the CPU, to test them where there is no GPU."""
