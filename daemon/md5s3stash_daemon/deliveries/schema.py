"""The tables of the journal of deliveries. Names are blobs, because a file name may be no valid text."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS delivery (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, folder BLOB NOT NULL, sender TEXT NOT NULL,
    opened REAL NOT NULL, touched REAL NOT NULL, position TEXT NOT NULL DEFAULT '',
    is_asked INTEGER NOT NULL DEFAULT 0, ended REAL, ended_by TEXT NOT NULL DEFAULT '',
    is_published INTEGER NOT NULL DEFAULT 0, verdict TEXT NOT NULL DEFAULT '', counts TEXT NOT NULL DEFAULT '{}',
    receipt BLOB NOT NULL DEFAULT '', bag TEXT NOT NULL DEFAULT '',
    fetching TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS manifest (
    drop_id BLOB PRIMARY KEY, number INTEGER NOT NULL, name BLOB NOT NULL, algorithm TEXT NOT NULL,
    lines INTEGER NOT NULL, malformed INTEGER NOT NULL, md5 TEXT NOT NULL DEFAULT '',
    problem TEXT NOT NULL DEFAULT '', is_sidecar INTEGER NOT NULL DEFAULT 0, is_replaced INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS manifest_number ON manifest (number);
CREATE TABLE IF NOT EXISTS listed (
    number INTEGER NOT NULL, name BLOB NOT NULL, algorithm TEXT NOT NULL, digest TEXT NOT NULL,
    manifest BLOB NOT NULL, times INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (number, name, algorithm, digest, manifest)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS file (
    number INTEGER NOT NULL, name BLOB NOT NULL, state TEXT NOT NULL, md5 TEXT NOT NULL DEFAULT '', size_bytes INTEGER,
    at REAL, reason TEXT NOT NULL DEFAULT '', drops INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (number, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fetched (
    number INTEGER NOT NULL, url TEXT NOT NULL, name BLOB NOT NULL, PRIMARY KEY (number, url, name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS file_state ON file (number, state);
"""
