"""The decoder over slots of KV, one a sequence: plain torch, for any torch device."""
