"""Full text, vectors, and their fusion, over rows that other rooms hand in. It knows no table of theirs."""
