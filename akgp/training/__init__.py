"""Training: a loop that yields a row an epoch, on one worker or several."""
