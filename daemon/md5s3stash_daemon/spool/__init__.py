"""The spool: directories as states, a rename as the transition. Imports core alone."""
