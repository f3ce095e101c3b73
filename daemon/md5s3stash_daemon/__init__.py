"""The spool daemon: what stands complete in the spool is stashed and recorded, or still there, or in failed/ with a
reason.
"""
