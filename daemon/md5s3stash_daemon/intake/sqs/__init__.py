"""Messages from an SQS queue; the daemon's only boto3. Imports config, runtime, ledger, monitoring, downloads."""
