"""The report: a store's answers as one page that needs nothing else, neither other files nor the network."""
