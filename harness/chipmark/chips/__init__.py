"""What the backend runs on, identified by evidence."""
