"""Creates the jobs of S3 Batch Operations, through the S3 control API.

A job waits for a person's confirmation, because it costs money and overwrites objects written to the target after its
manifest.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Any

from md5s3stash.errors import SettingsError
from md5s3stash.s3.boto_errors import translated
from md5s3stash.s3.client import BOTO_ERRORS, new_client, new_session
from md5s3stash.scheme import ObjectAddress
from md5s3stash_migrate.manifest import Manifest

_ROLE = re.compile(r"arn:(?P<partition>aws[a-z-]*):iam::(?P<account>\d{12}):role/[\w+=,.@/-]+")
_PRIORITY = 10


@dataclass(frozen=True, slots=True)
class Role:
    """The role that a job works as: it needs to read the source and the manifest, and to write the target and the
    report.
    """

    arn: str
    partition: str
    account: str

    @classmethod
    def parse(cls, arn: str) -> Role:
        """Raises SettingsError if it is not a role's ARN."""
        found = _ROLE.fullmatch(arn)
        if found is None:
            raise SettingsError(f"--batch-role {arn!r} is not of the form arn:aws:iam::123456789012:role/NAME")
        return cls(arn, found["partition"], found["account"])

    def bucket_arn(self, bucket: str) -> str:
        return f"arn:{self.partition}:s3:::{bucket}"


class BatchJobs:
    """Puts manifests into a bucket and creates a job for each. `endpoint` is what S3_ENDPOINT may be; boto3 finds the
    S3 control API (by region, or AWS_ENDPOINT_URL_S3_CONTROL).
    """

    def __init__(self, endpoint: str | None, role: Role, place: ObjectAddress) -> None:
        session = new_session()
        self._s3: Any = new_client(endpoint, session)
        self._role = role
        self._place = place
        try:
            self._control: Any = session.client("s3control")
        except BOTO_ERRORS as error:
            raise SettingsError(f"no S3 control client can be made from the AWS settings: {error}") from error

    def create(self, manifest: Manifest, key_prefix: str | None) -> str:
        """Creates a job and returns its id. For the same manifest again, S3 returns the first job's.

        Raises StoreUnavailable and StoreRefused.
        """
        where = ObjectAddress(self._place.bucket, f"{self._place.key}{manifest.path.name}")
        try:
            self._s3.upload_file(str(manifest.path), where.bucket, where.key)
            etag: str = self._s3.head_object(Bucket=where.bucket, Key=where.key)["ETag"]
            answer = self._control.create_job(**self._request(manifest, key_prefix, where, etag.strip('"')))
        except BOTO_ERRORS as error:
            raise translated(error, where.s3_url) from error
        return str(answer["JobId"])

    def _request(self, manifest: Manifest, key_prefix: str | None, where: ObjectAddress, etag: str) -> dict[str, Any]:
        role = self._role
        copy: dict[str, Any] = {
            "TargetResource": role.bucket_arn(manifest.target_bucket),
            "MetadataDirective": "COPY",
            "ChecksumAlgorithm": "SHA256",
        }
        if key_prefix is not None:
            copy["TargetKeyPrefix"] = key_prefix
        pair = f"{manifest.source_bucket} to {manifest.target_bucket}"
        return {
            "AccountId": role.account,
            "ConfirmationRequired": True,
            "Operation": {"S3PutObjectCopy": copy},
            "Manifest": {
                "Spec": {"Format": "S3BatchOperations_CSV_20180820", "Fields": ["Bucket", "Key"]},
                "Location": {"ObjectArn": role.bucket_arn(f"{where.bucket}/{where.key}"), "ETag": etag},
            },
            "Report": {
                "Bucket": role.bucket_arn(self._place.bucket),
                "Prefix": f"{self._place.key}reports".strip("/"),
                "Format": "Report_CSV_20180820",
                "Enabled": True,
                "ReportScope": "FailedTasksOnly",
            },
            "Description": f"md5s3stash-migrate {pair}",
            "Priority": _PRIORITY,
            "RoleArn": role.arn,
            "ClientRequestToken": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{where.s3_url} {etag} {pair}")),
        }
