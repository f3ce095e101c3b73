"""The S3 adapter: the only importer of boto3 and pycurl in the core."""
