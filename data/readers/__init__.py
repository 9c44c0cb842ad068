"""Files to examples, and the word lists that come with the package."""
