"""Price books and what a unit costs a year."""
