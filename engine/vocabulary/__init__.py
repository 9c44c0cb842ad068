"""More or fewer rows of an encoder's vocabulary, by what a text needs."""
