"""What a boot without a clean stop means for the spool. Imports runtime, disk, spool."""
