"""What is measured on one accelerator, a script a part; README.md beside this is the recipe."""
