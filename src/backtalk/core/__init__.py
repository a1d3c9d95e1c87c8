"""The ground floor: errors, ids, settings, clock, text. It imports nothing else of Backtalk."""
