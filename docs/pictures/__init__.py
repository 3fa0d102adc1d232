"""The pictures of the site, as SVG within the page: they take its colours, so they are legible in dark and light."""
