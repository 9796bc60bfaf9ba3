"""The clinics' records: read, checked, dealt out to clinics, split, and scaled."""
