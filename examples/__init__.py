"""Programs to run and to read: ``bot.py`` needs nothing but the library; ``story`` needs a clone of the project."""
