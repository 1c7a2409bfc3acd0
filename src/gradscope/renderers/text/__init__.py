"""What every format for people is made of: lines, columns, strips, numbers and sentences."""
