"""Study: when a task vector is provably effective (2504.10957)."""
