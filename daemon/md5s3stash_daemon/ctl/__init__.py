"""The program `md5s3stashctl`. Imports no intake."""
