"""The pages: each module reads from the record what its page shows."""
