"""Operations toolkit for Django Channels on Redis."""

__version__ = "0.1.0"
