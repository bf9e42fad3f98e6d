"""Files with rows of the record: the exports of runs, and the downloads of the page."""
