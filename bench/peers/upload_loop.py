"""A script of ten lines that uploads every file of a directory under its name, in one of four ways.

    python upload_loop.py WAY ENDPOINT BUCKET DIRECTORY

Runs in the environment of bench/peers/uploads.txt and uses nothing of this project. It fails if an upload fails.
"""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

THREADS = 8


def boto3_client(endpoint: str) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client("s3", endpoint_url=endpoint, config=Config(s3={"addressing_style": "path"}))


def boto3_loop(endpoint: str, bucket: str, paths: Sequence[str]) -> None:
    client = boto3_client(endpoint)
    for path in paths:
        client.upload_file(path, bucket, os.path.basename(path))


def boto3_threads(endpoint: str, bucket: str, paths: Sequence[str]) -> None:
    client = boto3_client(endpoint)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda path: client.upload_file(path, bucket, os.path.basename(path)), paths))


def s3transfer_crt(endpoint: str, bucket: str, paths: Sequence[str]) -> None:
    import botocore.session
    from s3transfer import crt

    session = botocore.session.get_session()
    credentials = crt.BotocoreCRTCredentialsWrapper(session.get_credentials()).to_crt_credentials_provider()
    serializer = crt.BotocoreCRTRequestSerializer(
        session,
        client_kwargs={"endpoint_url": endpoint, "region_name": "us-east-1", "use_ssl": endpoint[:5] == "https"},
    )
    client = crt.create_s3_crt_client(
        "us-east-1", credentials, use_ssl=endpoint.startswith("https"), verify=os.environ.get("AWS_CA_BUNDLE")
    )
    with crt.CRTTransferManager(client, serializer) as manager:
        transfers = [manager.upload(path, bucket, os.path.basename(path)) for path in paths]
        for transfer in transfers:
            transfer.result()


def obstore_loop(endpoint: str, bucket: str, paths: Sequence[str]) -> None:
    import obstore
    from obstore.store import S3Store

    # Its bundle of authorities cannot be extended; handshake and cipher are the same.
    options = {"allow_http": True, "allow_invalid_certificates": True}
    store = S3Store(bucket, endpoint=endpoint, region="us-east-1", client_options=options)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda path: obstore.put(store, os.path.basename(path), Path(path)), paths))


WAYS = {"boto3": boto3_loop, "boto3-threads": boto3_threads, "crt": s3transfer_crt, "obstore": obstore_loop}

if __name__ == "__main__":
    way, endpoint, bucket, directory = sys.argv[1:]
    WAYS[way](endpoint, bucket, [os.path.join(directory, name) for name in sorted(os.listdir(directory))])
