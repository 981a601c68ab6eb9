"""Verdicts that can be believed: paired effects, their intervals and what follows from them."""
