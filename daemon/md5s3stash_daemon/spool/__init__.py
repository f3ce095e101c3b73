"""The spool: directories are states, a rename is the transition. Imports disk."""
