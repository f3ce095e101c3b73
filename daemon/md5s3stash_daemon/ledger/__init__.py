"""What was stashed, recorded in Redis. Imports runtime."""
