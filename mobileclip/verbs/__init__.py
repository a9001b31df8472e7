"""The verbs of the command, one a file: a frozen dataclass whose fields are its options, with `run`.

Nothing heavy is imported before an argument is known to be right. Only mobileclip/cli.py imports them.
"""
