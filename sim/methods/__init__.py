"""What a method is, and what server and clinics of a run have in common."""
