"""Verdicts that can be believed: paired effects, their intervals and what may be said of them."""
