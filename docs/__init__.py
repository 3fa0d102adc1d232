"""The site: every page is a file of the project, rewritten so that names, clauses and bugs in it are links.

``python -m docs`` writes the pages and pictures, lets Sphinx build the site from them, and follows every internal link.
"""
