"""Study: forgetting under orthogonal transformations (2207.06475)."""
