"""Messages from an SQS queue; the only importer of boto3 in the daemon. Imports config, runtime, ledger, monitoring, downloads."""
