"""The spool daemon: each complete file in the spool is stashed and recorded, or is still there, or is in failed/ with a
reason.
"""
