"""What the commands are: for the help of the whole, the manual page and the completion of shells."""
