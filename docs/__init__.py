"""Build the site. Every page is a file of the project, rewritten so that its names, clauses and bugs are links.

``python -m docs`` writes the pages and pictures, lets Sphinx build the site from them, and checks every internal link.
"""
