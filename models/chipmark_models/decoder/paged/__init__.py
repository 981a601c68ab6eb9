"""The decoder whose KV lies in pages that sequences share, by kernels or plain torch."""
