"""A recipe made into results: what is needed before the first stage, the walk over the plan, what is left behind."""
