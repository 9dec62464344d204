"""Code shared by all scripts: command line, run folders, devices, files, figures, metrics of sample quality."""
