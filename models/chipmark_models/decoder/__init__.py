"""A decoder with cached keys and values in torch, for any torch device."""
