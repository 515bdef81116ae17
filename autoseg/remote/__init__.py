"""Datasets and runs by URL: listed and read through fsspec, kept in a cache of this computer, published whole.

A folder by URL has a mirror in the cache, a local folder with the same names. Large files of it are placeholders, of
the size and time of the file that they stand for, until `local_files.use_local` fetches them.
"""
