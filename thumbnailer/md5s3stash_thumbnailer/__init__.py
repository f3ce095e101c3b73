"""The thumbnail server: `/{mode}/{width}x{height}/{md5}` shows a picture of the object that lies in S3 under the md5.

It is an extension of pilbox: modes, query options, signatures and command line options are pilbox's.
"""
