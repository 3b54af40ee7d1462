"""What every command reads and writes with: careful reading, whole writing, one at a time."""
