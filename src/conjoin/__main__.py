"""`python -m conjoin` is `conjoin`."""

from conjoin.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
