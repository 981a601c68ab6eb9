"""A backend with closed-form time and power, to test the harness itself."""
