"""The commands of ``tunnel``, a module each: ``add_to`` declares its options, ``run`` does it.

`tunnel.cli` puts them together, and makes sentences and exit codes of what they raise.
"""
