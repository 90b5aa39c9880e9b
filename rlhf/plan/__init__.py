"""Will it fit, and how long will it take: arithmetic on shapes, before anything is loaded."""
