"""The program `md5s3stash-enqueue`."""
