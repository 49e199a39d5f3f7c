"""Studies: architectures compared over seeds, and the statistics that say what was learnt."""
