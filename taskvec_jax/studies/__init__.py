"""What neighbouring papers say of task vectors: formulas, one file a study."""
