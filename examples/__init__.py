"""Programs to run and to read: ``bot.py`` needs nothing but the library; the others need a clone of the project."""
