"""``python -m actprune_gpu``."""

from .cli import main

if __name__ == "__main__":
    main()
