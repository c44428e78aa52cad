"""The science: everything that ships in the Kaggle kernel."""
