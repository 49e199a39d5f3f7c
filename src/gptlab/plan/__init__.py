"""From a budget to a recipe: which size, how many tokens, what it will score, what it costs."""
