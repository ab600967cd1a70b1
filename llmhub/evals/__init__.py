"""What answers are worth: scorers, comparisons of models that can be believed, evaluations as one call."""
