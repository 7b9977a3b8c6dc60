"""Property-based tests and state machines."""
