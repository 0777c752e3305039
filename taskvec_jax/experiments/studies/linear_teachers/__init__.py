"""Study: finetuning between linear teachers (2107.01641)."""
