#!/bin/sh
# Copies the 36 buckets of BUCKET_BASE_1 (scheme multibucket) into BUCKET_BASE_2 (scheme simple: a bucket, perhaps with
# a key prefix). Further arguments go to md5s3stash-migrate, for example --dry-run.
set -eu

: "${BUCKET_BASE_1:?set it to the base of the 36 buckets}"
: "${BUCKET_BASE_2:?set it to the bucket, or bucket/prefix, that everything goes into}"

exec md5s3stash-migrate --from "multibucket:$BUCKET_BASE_1" --to "simple:$BUCKET_BASE_2" "$@"
