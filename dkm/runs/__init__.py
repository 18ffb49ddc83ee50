"""Run directories: what a run writes, what TensorBoard shows of it, how runs are read back and compared."""
