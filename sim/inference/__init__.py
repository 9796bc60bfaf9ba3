"""Statistics of comparisons: scores with the share of each patient in them, differences, and summaries over clinics."""
