"""From networks to files and to the numbers of a chip: NIR in and out, Loihi's integers."""
