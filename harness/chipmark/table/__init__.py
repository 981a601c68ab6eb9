"""The one table, its columns and its refusals to compare."""
