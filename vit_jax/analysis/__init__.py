"""What a trained model does: pure functions on arrays."""
