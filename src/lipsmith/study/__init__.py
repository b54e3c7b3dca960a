"""The human study of section 4.4: clips to rate and compare, pages for raters, answers and their analysis."""
