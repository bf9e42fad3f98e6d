"""The rubrics that ship with Oyer, one Markdown file each."""
