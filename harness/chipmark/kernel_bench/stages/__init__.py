"""What `scripts/gpu` does in a short stay on a card: three stages of steps, saved as they end."""
