"""Generates man pages, shell completions and the command reference from the parsers, and the example pictures of the
documentation with the thumbnailer.

    tools/manual        regenerates all but the pictures

The output is part of the repository, so that building a wheel does not import the package, and the reference can be
read on a code host. A test compares it with the parsers.
"""
