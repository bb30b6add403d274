# What other parts of the core need of the draws.

from scanengine._siphash cimport siphash_key


# Ensures: the two words of a 16-byte key; TypeError or ValueError for anything else.
cdef int key_read(object key, siphash_key *result) except -1
