"""The thumbnail server: `/{mode}/{width}x{height}/{md5}` shows a thumbnail of the object with that md5 in S3.

It is an extension of pilbox: modes, query options, signatures and command line options are pilbox's.
"""
