"""Logging for the programs: our own lines from the level asked for, and never a credential or a signed URL."""

from __future__ import annotations

import logging
import warnings

OUR_LOGGERS = ("md5s3stash", "md5s3stash_daemon", "md5s3stash_migrate", "laptop")


def set_up_logging(level: int, line_format: str = logging.BASIC_FORMAT) -> None:
    """Logs to standard error: our loggers from this level up, libraries from WARNING up.

    Below WARNING, boto3 and urllib3 log Authorization headers and signed URLs, and urllib3's warnings quote URLs.
    """
    logging.basicConfig(level=max(level, logging.WARNING), format=line_format)
    logging.getLogger("urllib3").setLevel(max(level, logging.ERROR))
    # Pillow warns about oddities in a picture. They concern the picture's owner, not the operator.
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"PIL\.")
    for name in OUR_LOGGERS:
        logging.getLogger(name).setLevel(level)
