"""Raw footage → prepared clips, and the drawn data set of the tests."""
