"""The rubrics that ship with Oyer, one Markdown file each, and the rendering of a rubric."""
