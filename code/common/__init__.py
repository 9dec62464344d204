"""What every script uses and no model: command line, run folder, devices, files, figures, sample quality."""
