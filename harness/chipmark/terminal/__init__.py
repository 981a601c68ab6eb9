"""What commands write: results on stdout, progress and errors on stderr."""
