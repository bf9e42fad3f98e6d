"""`oyer view`: a web page on the record, which explains each score. Reads SQL only."""
