"""The decoder over pages of KV that sequences share, by kernels or plain torch."""
