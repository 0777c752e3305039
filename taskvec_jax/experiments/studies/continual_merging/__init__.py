"""Study: Perturb-and-Merge in continual learning (2505.22389)."""
