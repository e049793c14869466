"""``python -m sparseconv``: the command line."""

from sparseconv.scripts.app import main

if __name__ == "__main__":
    main()
