"""The science: from microscope images to nuclei. build_kernel.py makes Kaggle's script of it."""
