"""Our own kernels on a GPU: paged KV, decode as CUDA graphs."""
