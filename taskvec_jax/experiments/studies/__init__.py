"""Studies of neighbouring papers: config, parts and verdicts, one file each."""
