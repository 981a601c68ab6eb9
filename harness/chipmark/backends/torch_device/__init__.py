"""Any torch device string through one decoder."""
