"""What ``atoll-agent doctor`` looks at: one module per part, each returns findings and changes nothing.

All of it is safe beside a running agent: the state folder is not locked, no Edge TPU is opened, and the
broker is spoken to under a client id of its own.
"""
