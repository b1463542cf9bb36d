"""``nfilter view``: a local web page over runs, and reviews of their rows. It adds commands and no stage."""
