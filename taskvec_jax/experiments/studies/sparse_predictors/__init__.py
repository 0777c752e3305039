"""Study: sparse task-specific predictors (2211.14666)."""
