"""How often the gate's rule is wrong, by simulation."""
