"""The mechanisms, one file each: settings, refusals, sensitivity, events, calibration, sentence, and what noises."""
