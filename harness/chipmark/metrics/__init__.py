"""Pure functions from events, samples and roofs to the numbers of the table."""
