"""Studies of neighbouring papers: settings, parts, verdicts; a folder each."""
