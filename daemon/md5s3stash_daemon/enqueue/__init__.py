"""The program `md5s3stash-enqueue`. Imports config, downloads, intake.sqs."""
