"""Made worlds: the demo's language pair, and the world whose hidden labels are known."""
