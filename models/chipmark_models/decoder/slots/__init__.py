"""The decoder whose KV lies in slots, one a sequence: plain torch, for any torch device."""
